// Attention as grids: the matrix of one head (or a mean), and all heads for one pair of tokens.

import { svg, visible } from "./dom.js";

const LETTERS = 10;
// A weight that is lighter than this cannot be told from the floor.
const FAINTEST = 0.01;

/** Row i says how token i shares its attention among the tokens up to itself; weights (n * n). */
export function matrix({ width, pieces, weights, query, onQuery }) {
  const n = pieces.length;
  const margin = 82;
  const side = Math.max(3, Math.min(30, Math.floor((width - margin) / n)));
  const named = side >= 11;
  const left = named ? margin : 0;
  const size = left + n * side;
  return svg(
    "svg",
    {
      class: "grid-chart",
      width: size,
      height: size,
      viewBox: `0 0 ${size} ${size}`,
      "aria-hidden": "true",
    },
    named ? names(pieces, side, margin, query) : null,
    svg("path", { class: "grid-floor", d: steps(n, left, side) }),
    pieces.map((_, row) => cells({ row, n, left, side, weights, onQuery })),
    svg("rect", {
      class: "grid-chosen",
      x: left,
      y: left + query * side,
      height: side,
      width: (query + 1) * side,
    }),
  );
}

function names(pieces, side, margin, query) {
  return pieces.map((piece, i) => {
    const at = margin + (i + 0.5) * side;
    const text = visible(piece.text).slice(0, LETTERS);
    const turned = `rotate(-90 ${at} ${margin - 6})`;
    return [
      svg(
        "text",
        { x: margin - 6, y: at + 4, "text-anchor": "end", class: i === query && "strong" },
        text,
      ),
      svg("text", { x: at, y: margin - 2, transform: turned }, text),
    ];
  });
}

// The outline of what a token may look at: itself and what came before.
function steps(n, left, side) {
  let path = `M${left} ${left}`;
  for (let row = 0; row < n; row += 1) path += `H${left + (row + 1) * side}v${side}`;
  return `${path}H${left}Z`;
}

function cells({ row, n, left, side, weights, onQuery }) {
  const columns = Array.from({ length: row + 1 }, (_, column) => column);
  return columns
    .filter((column) => weights[row * n + column] >= FAINTEST)
    .map((column) =>
      svg("rect", {
        class: "grid-cell",
        x: left + column * side,
        y: left + row * side,
        width: side,
        height: side,
        style: { fillOpacity: weights[row * n + column] },
        onclick: () => onQuery(row),
      }),
    );
}

/** A column for each layer, a row for each head: how much it looks from one token at another. */
export function headsMap({ width, layers, nHeads, weightOf, chosen, onChoose }) {
  const margin = 38;
  const side = Math.max(4, Math.min(18, Math.floor((width - margin) / layers.length)));
  const size = [margin + layers.length * side, nHeads * side + 24];
  const choose = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / (box.width / layers.length));
    const head = Math.floor((event.clientY - box.top) / (box.height / nHeads));
    onChoose(layers[Math.min(column, layers.length - 1)], Math.min(head, nHeads - 1));
  };
  const at = layers.indexOf(chosen.layer);
  return svg(
    "svg",
    {
      class: "grid-chart",
      width: size[0],
      height: size[1],
      viewBox: `0 0 ${size.join(" ")}`,
      "aria-hidden": "true",
    },
    svg("rect", {
      class: "grid-floor heads-floor",
      x: margin,
      y: 0,
      width: layers.length * side,
      height: nHeads * side,
      onclick: choose,
    }),
    layers.map((_, column) => headCells({ column, nHeads, margin, side, weightOf })),
    chosen.head === null || at < 0
      ? null
      : svg("rect", {
          class: "grid-chosen",
          x: margin + at * side - 1,
          y: chosen.head * side - 1,
          width: side + 1,
          height: side + 1,
        }),
    svg("text", { x: margin - 6, y: 11, "text-anchor": "end" }, "head"),
    svg("text", { x: margin, y: size[1] - 6 }, "layer 0"),
    svg("text", { x: size[0], y: size[1] - 6, "text-anchor": "end" }, layers.at(-1)),
  );
}

// Clicks fall through to the floor, which is also there where no cell is drawn.
function headCells({ column, nHeads, margin, side, weightOf }) {
  return Array.from({ length: nHeads }, (_, head) => [head, weightOf(column, head)])
    .filter(([, weight]) => weight >= FAINTEST)
    .map(([head, weight]) =>
      svg("rect", {
        class: "head-cell",
        x: margin + column * side,
        y: head * side,
        width: side - 1,
        height: side - 1,
        style: { fillOpacity: weight },
      }),
    );
}
