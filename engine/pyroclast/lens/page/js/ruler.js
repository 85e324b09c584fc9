// The line from 0 to 1 on which the tokens lie end to end, in order of their ids, and the random
// number on it.

import { el, fixed, visible } from "./text.js";
import { kind } from "./colours.js";

const LEAST = 0.002; // narrower pieces are drawn together
const LABELLED = 0.06;

export function ruler(found, texts, { seed, position }) {
  if (found.token_id === null) return el("p", {}, "No token is left to draw.");
  const name = el("span", { class: "token" }, visible(texts.of(found.token_id)));
  if (found.u === null)
    return el("p", {}, "Nothing is drawn at temperature 0: the most likely token, ", name,
      ", is taken.");
  const [low, high] = found.cdf;
  return el("div", { class: "stack" },
    el("div", { class: "ruler", "aria-hidden": true },
      pieces(found).map((piece, i) => segment(piece, i, found, texts)),
      el("span", { class: "ruler-u", style: { left: `${100 * found.u}%` } })),
    el("div", { class: "ruler-ends faint num", "aria-hidden": true },
      el("span", {}, "0"), el("span", {}, "1")),
    el("p", {}, "The tokens that are left lie end to end, each as long as its probability. The "
      + `random number ${fixed(found.u, 6)} (seed ${seed}, position ${position}) falls on `, name,
    `, which reaches from ${fixed(low, 6)} to ${fixed(high, 6)}.`));
}

// [{id, from, to}] in order of token id; id is null for a run of narrow ones.
function pieces(found) {
  const p = found.stages.at(-1).p;
  const all = [];
  let sum = 0;
  for (let id = 0; id < p.length; id++) {
    if (p[id] === 0) continue;
    const from = sum;
    sum += p[id];
    if (p[id] >= LEAST || id === found.token_id) all.push({ id, from, to: sum });
    else if (all.length && all.at(-1).id === null) all.at(-1).to = sum;
    else all.push({ id: null, from, to: sum });
  }
  return all;
}

function segment({ id, from, to }, i, found, texts) {
  const { fill, ink } = kind(i % 5);
  const chosen = id === found.token_id;
  const kinds = ["ruler-piece", id === null && "is-rest", chosen && "is-chosen"];
  const label = id !== null && to - from > LABELLED ? visible(texts.of(id)) : "";
  return el("span", {
    class: kinds.filter(Boolean).join(" "), title: id === null ? "many rare tokens" : visible(texts.of(id)),
    style: { left: `${100 * from}%`, width: `${100 * (to - from)}%`,
      ...(id === null ? {} : { background: fill, color: ink }) },
  }, label && el("span", {}, label));
}
