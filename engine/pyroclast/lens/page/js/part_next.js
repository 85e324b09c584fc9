// Part 5: the whole distribution after the context, and what "conditional" means.

import { el, fixed, integer, percent, replace, spoken, visible } from "./text.js";
import { dots, words } from "./conditional.js";
import { distribution } from "./logits.js";
import { squashing } from "./squash.js";

const N_BARS = 20;
const N_COMPARED = 10;

let context, given, summary, table, whole, other, chain;

export const part = {
  id: "next",
  title: "P(next | context)",
  explain: [
    "After the words so far, the model gives every token of its vocabulary a score, the logit; "
    + "softmax turns the scores into probabilities that add up to 1. This list is all that the model "
    + "says: which token is picked, the next part shows.",
    "The entropy tells how unsure it is. Equal sides say the same: a fair die with so many sides is "
    + "just as unsure.",
  ],
  code: "engine/pyroclast/lens/choice.py",

  async open(root, handed) {
    context = handed;
    [summary, table, whole, other, chain] = Array.from({ length: 5 }, () => el("div"));
    root.append(summary, el("div", { class: "columns" }, table, whole), changeCard(), chain,
      conditionalCard(), squashCard());
    await both();
  },

  async update(change) {
    const moved = ["text", "messages", "token_ids", "model"].some((name) => change.has(name));
    if (moved) await both();
    else if (change.has("view")) await Promise.all([followPick(), compare()]);
  },

  close() {},
  data: () => null,
};

// The changed context is asked about while the given one is drawn.
async function both() {
  const shown = show();
  await Promise.all([shown, compare(shown)]);
}

async function show() {
  const answer = await context.ask("next");
  if (!answer) return;
  given = distribution(answer);
  const best = given.top[0];
  replace(summary, context.charts.figures([
    { title: "Most likely", value: visible(best.text), note: percent(best.p) },
    { title: "Entropy", value: `${fixed(given.entropy)} nats`,
      note: "the average of −ln P" },
    { title: "Equal sides", value: fixed(given.n_equal_sides, 1), note: "a die this unsure" },
    { title: "Tokens that hold 90 %", value: integer(nHolding(0.9)) },
  ]));
  const rows = given.top.slice(0, N_BARS);
  replace(table, el("h2", {}, "The most likely tokens"),
    context.charts.bars(rows, {
      caption: "The most likely next tokens with logit and probability",
      columns: [{ title: "Logit", optional: true, cell: (row) => fixed(row.logit) }],
      onpick: (row) => context.onChange({ view: { ...context.state.view, pick: String(row.id) } }),
    }),
    el("p", { class: "faint" }, rest(rows)));
  replace(whole, el("h2", {}, "All of them"), cumulative());
  context.announce(`Most likely: ${spoken(best.text)}, ${percent(best.p)}`);
  await followPick();
}

function rest(rows) {
  const n = context.meta.vocab_size - rows.length;
  const p = Math.max(0, 1 - rows.reduce((sum, row) => sum + row.p, 0));
  return `The ${integer(n)} other tokens together: ${percent(p)}. Select a token to go on with it.`;
}

function nHolding(share) {
  let [n, sum] = [0, 0];
  while (sum < share && n < given.order.length) sum += given.p[given.order[n++]];
  return n;
}

// The sum of the n largest probabilities, for n = 1, 2, 4, ... and all.
function cumulative() {
  const points = [];
  let sum = 0;
  given.order.forEach((id, i) => {
    sum += given.p[id];
    if (i < 20 || i === given.order.length - 1 || i + 1 >= 1.15 * points.at(-1).x)
      points.push({ x: i + 1, y: sum });
  });
  const n = nHolding(0.9);
  return [
    context.charts.curve(points, {
      title: "How much probability the n most likely tokens hold together.", log: true, top: 1,
      xTitle: "n most likely tokens", format: (y) => `${Math.round(100 * y)} %`,
      marks: [{ x: n, y: 0.9, label: `90 % in ${integer(n)}` }],
    }),
    el("p", { class: "faint" },
      "A curve that starts high: the model is sure. One that rises slowly: many tokens would do. The "
      + "axis below is logarithmic, since most of the vocabulary holds next to nothing."),
  ];
}

function changeCard() {
  const input = el("input", { type: "text", id: "other-text", autocomplete: "off",
    spellcheck: false, readOnly: context.saved !== null });
  input.value = context.state.view.b ?? suggestion(context.state.text);
  input.addEventListener("input", () =>
    context.onChange({ view: { ...context.state.view, b: input.value } }));
  return el("section", { class: "card stack" },
    el("h2", {}, el("label", { for: "other-text" }, "Change a word of the context")), input, other);
}

// The same words with another last noun, as a first thing to try.
function suggestion(text) {
  return text.includes("France") ? text.replace("France", "Italy") : `Perhaps ${text}`;
}

// shown: what has to be done before `given` is that of the page.
async function compare(shown = null) {
  const text = document.getElementById("other-text").value;
  if (!text) return;
  const answer = await context.ask("next", { text },
    { context: false, as: "other" });
  await shown;
  if (!answer || !given) return;
  const changed = distribution(answer);
  const ids = [...new Set([...given.top.slice(0, N_COMPARED / 2), ...changed.top.slice(0, N_COMPARED / 2)]
    .map((row) => row.id))];
  const texts = new Map([...given.top, ...changed.top].map((row) => [row.id, row.text]));
  const row = (id, p) => ({ id, text: texts.get(id), p });
  const side = (title, p) => el("div", {}, el("h3", {}, title), context.charts.bars(
    ids.map((id) => row(id, p[id])), { caption: `Probabilities after: ${title}`, maximum: 1 }));
  replace(other, el("div", { class: "columns" }, side("As above", given.p), side("Changed", changed.p)),
    el("p", { class: "faint" }, `Total variation distance: ${fixed(distance(given.p, changed.p))}. `
      + "0: the change moved nothing; 1: no token is likely after both."));
}

function distance(p, q) {
  let sum = 0;
  for (let i = 0; i < p.length; i++) sum += Math.abs(p[i] - q[i]);
  return sum / 2;
}

async function followPick() {
  const picked = context.state.view.pick;
  const id = picked && Number(picked) < given.p.length ? Number(picked) : given.top[0].id;
  await words(chain, context, given, id);
}

function conditionalCard() {
  return el("section", { class: "card stack" },
    el("h2", {}, "The same with people: P(tennis | football)"), dots(context));
}

function squashCard() {
  return el("section", { class: "card stack" },
    el("h2", {}, "Why softmax, and not another function"), squashing(context));
}
