// One text of the part "Where it looks": its arcs, a sentence, its matrix and its heads.

import { arcs } from "./attention_arcs.js";
import { headsMap, matrix } from "./attention_grids.js";
import { el, replace, spoken, visible } from "./dom.js";
import { choice } from "./fields.js";
import { percent } from "./format.js";
import { responsive } from "./scales.js";

// Above this share, the first token is a resting place that deserves a word.
const RESTING = 0.3;
const LOST = 0.005;
const N_HEADS_NAMED = 5;

/** `top` holds the arcs and `grids` the grids; `show` draws {layer, head, query, key}; `stop()`.
 * onChoose takes a patch of these. */
export function sideOf(weights, onChoose) {
  let chosen = null;
  const row = arcs(weights.pieces, (query) => onChoose({ query, key: null }));
  const sentence = el("p", { class: "reading", role: "status" });
  const gridBox = el("div");
  const headsBox = el("div");
  const list = headsList((layer, head) => onChoose({ layer, head }));
  const key = choice({
    label: "Token looked at",
    onChange: (value) => onChoose({ key: Number(value) }),
  });
  const grid = responsive(
    gridBox,
    (width) =>
      chosen &&
      matrix({
        width,
        pieces: weights.pieces,
        weights: weights.matrix(chosen.layer, chosen.head),
        query: chosen.query,
        onQuery: (query) => onChoose({ query, key: null }),
      }),
  );
  const heads = responsive(
    headsBox,
    (width) =>
      chosen &&
      headsMap({
        width,
        layers: weights.layers,
        nHeads: weights.nHeads,
        chosen,
        weightOf: (column, head) => weights.at(column, head, chosen.query, chosen.key),
        onChoose: (layer, head) => onChoose({ layer, head }),
      }),
  );

  function show(now) {
    chosen = now;
    const { layer, head, query } = now;
    const start = query * weights.n;
    const shares = weights.matrix(layer, head).subarray(start, start + weights.n);
    row.show(shares, query);
    replace(sentence, told(weights.pieces, shares, now));
    key.fill(
      weights.pieces
        .slice(0, query + 1)
        .map((piece, i) => [String(i), `${i}: ${visible(piece.text)}`]),
      String(now.key),
    );
    list.show(weights.heads(query, now.key), now);
    grid.draw();
    heads.draw();
  }

  const top = el("div", { class: "side" }, row.node, sentence);
  const grids = el(
    "div",
    { class: "side" },
    figure("All tokens at once: each row says where one token looks.", gridBox),
    figure(
      "All heads at once: how much each one looks from the chosen token at one other token.",
      key.node,
      headsBox,
      list.node,
    ),
  );
  const stop = () => [row, grid, heads].forEach((each) => each.stop());
  return { top, grids, show, stop };
}

function figure(caption, ...children) {
  return el("figure", {}, el("figcaption", {}, caption), children);
}

/** “bank” shares out its attention: it gives 61.7 % to “river”, ... */
function told(pieces, shares, { layer, head, query }) {
  const most = [...shares.keys()]
    .slice(0, query + 1)
    .sort((a, b) => shares[b] - shares[a])
    .slice(0, 3)
    .map((key) => `${percent(shares[key])} to ${quoted(pieces[key])}`);
  const where =
    head === null ? `the mean over the heads of layer ${layer}` : `layer ${layer}, head ${head}`;
  const rest =
    query > 0 && shares[0] > RESTING
      ? " A head that finds nothing to look for rests on the first token."
      : "";
  const shared = `${quoted(pieces[query])} shares out its attention: it gives ${joined(most)}.`;
  return `In ${where}, ${shared}${lost(shares)}${rest}`;
}

// Heads of some families have a sink: a share that goes nowhere, so that the others are less than 1.
function lost(shares) {
  const share = 1 - shares.reduce((sum, x) => sum + x, 0);
  return share > LOST ? ` ${percent(share)} goes to no token at all.` : "";
}

function joined(list) {
  return list.length < 2 ? list.join("") : `${list.slice(0, -1).join(", ")} and ${list.at(-1)}`;
}

function quoted(piece) {
  return `\u201c${spoken(piece.text)}\u201d`;
}

// Buttons that stay where they are, so that the focus does; only what they say changes.
function headsList(onChoose) {
  let heads = [];
  const buttons = Array.from({ length: N_HEADS_NAMED }, (_, i) =>
    el("button", {
      type: "button",
      class: "quiet",
      onclick: () => onChoose(heads[i].layer, heads[i].head),
    }),
  );
  const items = buttons.map((button) => el("li", {}, button));

  function show(found, { layer, head }) {
    heads = found.slice(0, N_HEADS_NAMED);
    items.forEach((item, i) => {
      item.hidden = i >= heads.length;
    });
    heads.forEach((each, i) => {
      buttons[i].setAttribute("aria-pressed", String(each.layer === layer && each.head === head));
      replace(
        buttons[i],
        `layer ${each.layer}, head ${each.head}`,
        el("span", { class: "figure" }, percent(each.weight)),
      );
    });
  }

  return { node: el("ol", { class: "heads-list" }, items), show };
}
