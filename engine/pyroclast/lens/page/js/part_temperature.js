// Part 6: every stage of the sampler on the real logits, and the draw.  All of it is computed here,
// from the logits, so that a slider answers at once.

import { el, fixed, integer, percent, replace, visible } from "./text.js";
import { distribution, Texts } from "./logits.js";
import { redraw, trace } from "./sampler.js";
import { biases } from "./bias.js";
import { controls } from "./controls.js";
import { inWords, names } from "./stage_words.js";
import { loops } from "./side_by_side.js";
import { ruler } from "./ruler.js";

const N_BARS = 20;
const N_REDRAWS = 200;
const N_TEXTS = 900;

let context, given, texts, settings, summary, table, line, stages, written, biased, drawn;

export const part = {
  id: "temperature",
  title: "Temperature and the draw",
  explain: [
    "The model only gives probabilities; the sampler picks. Temperature makes the likely tokens "
    + "likelier (below 1) or the rare ones less rare (above 1), and cuts remove tokens altogether.",
    "Then a random number from 0 to 1 falls on one of the tokens that are left. It follows from "
    + "seed and position, so the same settings pick the same token again.",
  ],
  code: "engine/pyroclast/sampling/stages.py",

  async open(root, handed) {
    context = handed;
    texts = new Texts(context);
    drawn = context.state.view.redraws === "1";
    [summary, table, line, stages] = Array.from({ length: 4 }, () => el("div"));
    settings = controls(context, (patch) => context.onChange(patch));
    written = loops(context);
    biased = biases(context, texts);
    root.append(summary, el("div", { class: "columns wide-right" },
      el("section", { class: "card stack" }, el("h2", {}, "Settings"), settings.node),
      el("div", { class: "stack" }, table, redrawButton())), biased.node,
    section("The draw", line), section("Every stage, in order", stages),
    written.node);
    await load();
  },

  async update(change) {
    if (["text", "messages", "token_ids", "model"].some((name) => change.has(name))) await load();
    else if (given) await show();
    settings.show(context.state);
    biased.show();
  },

  close() { written.close(); },
  data: () => written.data(),
};

function section(title, node) {
  return el("section", { class: "card stack" }, el("h2", {}, title), node);
}

async function load() {
  const answer = await context.ask("next");
  if (!answer) return;
  given = distribution(answer);
  texts.learn(given.top);
  await show();
  // Most draws fall on these, so that a slider rarely waits for a text.
  await texts.fetch([...Object.keys(context.state.params.logit_bias).map(Number),
    ...given.order.slice(0, N_TEXTS)], "likely");
  biased.show();
  await show();
}

// Where the token stands that is drawn, and what counts for penalties.
function place() {
  const { seed, position } = context.state;
  return { seed, position: position ?? given.token_ids.length, promptIds: given.token_ids };
}

async function show() {
  const found = trace(given.logits, context.state.params, place());
  const shown = given.order.slice(0, N_BARS);
  const ids = [...shown];
  if (found.token_id !== null && !ids.includes(found.token_id)) ids.push(found.token_id);
  const counts = drawn && found.token_id !== null
    ? redraw(found.stages.at(-1).p, N_REDRAWS, place()) : null;
  draw(found, ids, counts);
  if (await texts.fetch([...ids, ...(counts?.keys() ?? [])])) draw(found, ids, counts);
}

function draw(found, ids, counts) {
  const last = found.stages.at(-1);
  const chosen = found.token_id;
  const rank = chosen === null ? "" : given.rank(chosen);
  replace(summary, context.charts.figures([
    { title: "Picked", value: chosen === null ? "nothing" : visible(texts.of(chosen)),
      note: chosen === null ? "every token is forbidden" : `number ${integer(rank)} of the model's list` },
    { title: "Its probability", value: chosen === null ? "–" : percent(last.p[chosen]),
      note: chosen === null ? "" : `${percent(given.p[chosen])} before` },
    { title: "Tokens left", value: integer(last.n_kept), note: `of ${integer(given.p.length)}` },
    { title: "Like a die of", value: `${sides(last.perplexity)} sides`,
      note: `${sides(given.n_equal_sides)} before` },
  ], { steady: true }), el("p", { class: "verdict" }, verdict(found)), el("p", { class: "verdict" }, heat(found)));
  const rows = ids.map((id) => row(id, found));
  replace(table, el("h2", {}, "Before and after"), context.charts.bars(rows, {
    caption: "Tokens with their probability before and after the sampler's stages",
    maximum: scaleOf(rows), onpick: (each) => biased.pick(each.id),
    columns: [
      { title: "Before", optional: true, cell: (each) => percent(each.mark) },
      ...(counts ? [{ title: "Drawn", cell: (each) => integer(counts.get(each.id) ?? 0) }] : []),
    ],
  }), el("p", { class: "faint" }, "Bar: the probability after all stages. Line: before them. Select a "
    + "token to give it a bias."),
  counts ? el("p", { class: "faint" }, elsewhere(ids, counts)) : null);
  replace(line, ruler(found, texts, place()));
  replace(stages, stageTable(found));
  context.announce(chosen === null ? "No token is left" : `Picked ${texts.of(chosen)}`);
}

function sides(n) {
  return n < 100 ? fixed(n, 1) : integer(Math.round(n));
}

function mostLikely(p) {
  let most = 0;
  for (let id = 1; id < p.length; id++) if (p[id] > p[most]) most = id;
  return most;
}

// Why this token, in a sentence.
function verdict({ token_id, u, stages: all }) {
  const token = (id) => el("span", { class: "token" }, visible(texts.of(id)));
  if (token_id === null) return "Bias and mask leave no token.";
  const { p } = all.at(-1);
  const best = mostLikely(p);
  if (u === null) return ["Temperature 0 takes the most likely token, ", token(best), "."];
  if (best === token_id)
    return ["The random number fell on ", token(best), ", which is also the most likely token. ",
      p[best] < 1 ? `With another seed it may not: ${percent(1 - p[best])} of all draws pick another.`
        : "No other token is left."];
  return ["The most likely token is ", token(best), ` with ${percent(p[best])}, but the random number `
    + "fell on ", token(token_id), ". ", `${percent(1 - p[best])} of all draws pick another token than `,
  token(best), "."];
}

// What the temperature alone did to the token that is most likely before it.
function heat({ token_id, stages: all }) {
  const { temperature } = context.state.params;
  const i = all.findIndex((stage) => stage.name === "temperature");
  if (token_id === null || i < 0) return "";
  const p = all[i - 1].p;
  const best = mostLikely(p);
  if (temperature === 1)
    return "Temperature 1 changes nothing: these are the model's own probabilities. Move its slider.";
  const does = temperature < 1 ? "favours the likely tokens" : "favours the rare tokens";
  return [`Temperature ${temperature} ${does}: `,
    el("span", { class: "token" }, visible(texts.of(best))),
    ` goes from ${percent(p[best])} to ${percent(all[i].p[best])}, and the choice is as open as a die `
    + `of ${sides(all[i].perplexity)} sides instead of ${sides(all[i - 1].perplexity)}.`];
}

// One of a few scales, so that bars do not jump with every move of a slider.
function scaleOf(rows) {
  const most = Math.max(...rows.map((each) => Math.max(each.p, each.mark)));
  return [0.05, 0.1, 0.25, 0.5, 1].find((scale) => scale >= most) ?? 1;
}

function row(id, found) {
  const removed = found.stages.find((stage, i) => i > 0 && stage.p[id] === 0);
  return {
    id, text: texts.of(id), p: found.stages.at(-1).p[id], mark: given.p[id],
    cut: removed ? names[removed.name] : null, chosen: id === found.token_id,
  };
}

function elsewhere(ids, counts) {
  let n = 0;
  for (const [id, count] of counts) if (!ids.includes(id)) n += count;
  return `${N_REDRAWS} draws with other random numbers; ${integer(n)} fell on tokens that are not `
    + "in this list.";
}

function redrawButton() {
  const button = el("button", { type: "button", "aria-pressed": drawn, onclick: () => {
    drawn = !drawn;
    button.setAttribute("aria-pressed", String(drawn));
    context.onChange({ view: { ...context.state.view, redraws: drawn ? "1" : null } });
  } }, `Draw ${N_REDRAWS} times`);
  return el("div", { class: "actions" }, button);
}

// What a stage did to the token that the model finds most likely.
function moved({ stages: all }, i) {
  const id = given.order[0];
  const [before, after] = [all[i - 1].p[id], all[i].p[id]];
  if (before === 0) return null;
  const name = el("span", { class: "token" }, visible(texts.of(id)));
  if (Math.abs(after - before) < 5e-5) return [" ", name, ` keeps its ${percent(before)}.`];
  return [" ", name, ` goes from ${percent(before)} to ${percent(after)}.`];
}

function stageTable(found) {
  return el("ol", { class: "stages" }, found.stages.map((stage, i) => el("li", {
    "data-stage": stage.name,
  },
  el("h3", {}, names[stage.name]),
  el("p", {}, inWords(stage.name, context.state.params), i ? moved(found, i) : null),
  el("p", { class: "faint num" },
    `${integer(stage.n_kept)} left${stage.n_removed && i ? `, ${integer(stage.n_removed)} removed` : ""}`
    + ` · entropy ${fixed(stage.entropy)} nats · ${sides(stage.perplexity)} equal sides`))));
}
