// Part 7: the loop, token by token: play, fork, force a word, and the tree of what was written.

import { counted, el, percent, replace, roving, spoken, visible } from "./text.js";
import { Branches } from "./branches.js";
import { drawn, listed } from "./tree.js";
import { distribution } from "./logits.js";
import { MEASURES, scale, word } from "./word.js";
import { FEW, controls } from "./controls.js";
import { conversation } from "./conversation.js";
import { sampling } from "./state.js";

const N_FIRST = 12; // what is there to look at when the part opens
const N_PLAY = 32;
const N_AFTER_FORK = 12;

let context, branches, prompt, measure, picked, isPlaying, settings, talk;
let turn = 0; // of the text that is being written: a later one ends it
let text, legend, choices, forest, playButton, status;

export const part = {
  id: "loop",
  title: "The loop",
  explain: [
    "A model writes one token at a time: it picks one, appends it to the context, and reads all of "
    + "it again. Whatever was picked, by luck too, becomes part of what comes next.",
    "Select a token to see what else could have come, and go on from there. What the model "
    + "computed for the beginning is kept in its cache, so a fork starts at once.",
  ],
  code: "engine/pyroclast/lens/writing.py",

  async open(root, handed) {
    context = handed;
    branches = new Branches(context.saved);
    [measure, picked, isPlaying] = [context.state.view.colour ?? "p", null, false];
    text = el("div", { class: "running-text", role: "group", "aria-label": "The text, token by token" });
    [legend, choices, forest] = Array.from({ length: 3 }, () => el("div", { class: "stack" }));
    status = el("p", { class: "faint", role: "status" });
    settings = controls(context, (patch) => context.onChange(patch), { only: FEW, id: "loop" });
    talk = conversation(context, () => branches.path());
    root.append(toolbar(), el("section", { class: "card stack" }, text, legend), choices,
      el("section", { class: "card stack" }, el("h2", {}, "Branches"), forest),
      el("section", { class: "card stack" }, el("h2", {}, "Settings"), settings.node), talk.node);
    await restart();
  },

  async update(change) {
    settings.show(context.state);
    if (["text", "messages", "token_ids", "model"].some((name) => change.has(name))) {
      branches = new Branches();
      picked = null;
      await restart();
    }
  },

  close() { isPlaying = false; },
  data: () => branches.data(),
};

async function restart() {
  context.cancel("generate");
  const answer = await context.ask("tokens");
  if (!answer) return;
  prompt = answer.token_ids;
  talk.show(answer.pieces);
  show();
  if (context.saved === null && prompt.length && branches.nodes.length === 1) await write(N_FIRST);
}

function toolbar() {
  const saved = context.saved !== null;
  const step = el("button", { type: "button", disabled: saved, onclick: () => write(1) }, "Step");
  playButton = el("button", { type: "button", class: "strong", disabled: saved, onclick: () => {
    if (isPlaying) context.cancel("generate");
    else write(N_PLAY);
  } }, "Play");
  const back = el("button", { type: "button", onclick: () => {
    const leaf = branches.nodes[branches.leaf];
    if (leaf.parent !== null) go(leaf.parent);
  } }, "Back");
  const forced = el("input", { type: "text", id: "forced", placeholder: " however", disabled: saved });
  const force = el("form", { class: "actions", onsubmit: (event) => {
    event.preventDefault();
    guarded(() => forceWords(forced.value));
  } }, el("label", { for: "forced", class: "label" }, "Force a word"), el("span", {}, forced),
  el("button", { disabled: saved }, "Add"));
  return el("div", { class: "stack toolbar" },
    el("div", { class: "actions" }, playButton, step, back, force), colourBy(), status);
}

function colourBy() {
  return el("fieldset", { class: "segments" }, el("legend", { class: "visually-hidden" }, "Colour by"),
    Object.entries(MEASURES).map(([name, { title }]) => el("label", {},
      el("input", { type: "radio", name: "measure", value: name, checked: name === measure,
        onchange: () => {
          measure = name;
          context.onChange({ view: { ...context.state.view, colour: name } });
          show();
        } }), title)));
}

// What the server writes from the current end: n tokens at most.
async function write(n) {
  const own = ++turn;
  let end = branches.leaf;
  await guarded(async () => {
    setPlaying(n > 1);
    const start = performance.now();
    const asked = { token_ids: [...prompt, ...branches.path().map((node) => node.token)],
      n_prompt: prompt.length, params: sampling(context.state), max_tokens: n };
    let first = null;
    for await (const step of context.stream("generate", asked, { context: false })) {
      if (step.done) {
        const ended = step.finish_reason === "stop" ? "The model ended the text. " : "";
        status.textContent = `${ended}First token after ${Math.round(first ?? 0)} ms, with `
          + `${counted(talk.cached(), "token")} of the context from the cache.`;
        break;
      }
      first ??= performance.now() - start;
      talk.setCached(step.n_cached);
      end = branches.add(end, step).id;
      showText();
    }
  });
  if (own !== turn) return;
  setPlaying(false);
  show();
}

function setPlaying(on) {
  isPlaying = on;
  playButton.textContent = on ? "Stop" : "Play";
}

// Appends the tokens of `words` whatever the model thinks of them, and says what it thinks.
async function forceWords(words) {
  if (!words) return;
  context.cancel("generate");
  const found = await context.ask("tokens", { text: words }, { context: false, as: "forced" });
  if (!found) return;
  for (const piece of found.pieces.filter((each) => !each.special)) {
    const ids = [...prompt, ...branches.path().map((node) => node.token)];
    const answer = await context.ask("next", { token_ids: ids }, { context: false });
    if (!answer) return;
    const { p, rank, entropy, top } = distribution(answer);
    branches.add(branches.leaf, { id: piece.id, text: piece.text, p: p[piece.id],
      rank: rank(piece.id), entropy, top: top.slice(0, 10), forced: true });
  }
  show();
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    context.notice(error.message);
  }
}

function go(id) {
  context.cancel("generate"); // it would go on from another place
  branches.leaf = id;
  picked = null;
  show();
}

function show() {
  showText();
  talk.draw();
  replace(legend, scale(measure));
  showChoices();
  const isEmpty = branches.nodes.length === 1;
  replace(forest, isEmpty ? el("p", { class: "faint" }, "Nothing is written yet.") : [
    context.d3 ? drawn(branches, context.d3, go) : context.charts.undrawn("The tree"),
    listed(branches, go)]);
}

function showText() {
  const path = branches.path();
  replace(text, path.length ? path.map((node) => word(node, measure, {
    class: [node.id === picked && "is-picked", node.forced && "is-forced"].filter(Boolean).join(" "),
    "data-id": String(node.token), "aria-label": `${spoken(node.text)}, ${percent(node.p)}`,
    "aria-pressed": node.id === picked, onclick: () => {
      picked = node.id === picked ? null : node.id;
      show();
      text.querySelector(`[aria-pressed="true"]`)?.focus();
    },
  })) : el("span", { class: "faint" }, "Press Play to let the model go on with the words above."));
  roving(text, "button");
}

// What else could have come in place of the picked token.
function showChoices() {
  replace(choices);
  if (picked === null) return;
  const node = branches.nodes[picked];
  const before = [...prompt, ...branches.path(node.parent).map((each) => each.token)];
  const rows = node.top.map((row) => ({ ...row, chosen: row.id === node.token,
    seen: before.includes(row.id) }));
  if (!rows.some((row) => row.chosen))
    rows.push({ id: node.token, text: node.text, p: node.p, chosen: true,
      seen: before.includes(node.token) });
  replace(choices, el("section", { class: "card stack" },
    el("h2", {}, "In place of ", el("span", { class: "token" }, visible(node.text))),
    el("p", { class: "faint" }, `The model's own probabilities; this token was number ${node.rank}. `
      + "Select another one to go on with it. A repetition penalty holds back those that occurred."),
    context.charts.bars(rows, { caption: "Alternatives", maximum: 1,
      columns: [{ title: "Occurred", optional: true, cell: (row) => (row.seen ? "yes" : "") }],
      onpick: (row) => fork(node, row) })));
}

async function fork(node, row) {
  if (context.saved !== null || row.id === node.token) return;
  const rank = node.top.findIndex((each) => each.id === row.id) + 1;
  branches.add(node.parent, { ...row, rank, entropy: node.entropy, top: node.top });
  picked = null;
  show();
  await write(N_AFTER_FORK);
}
