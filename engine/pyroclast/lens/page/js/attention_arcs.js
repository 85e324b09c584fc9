// The tokens of one text in a row, and arcs from one of them to those that it looks at.

import { el, roving, svg, visible } from "./dom.js";

const HEIGHT = 132;
// A weight below this is not drawn: hundreds of faint arcs would hide the others.
const FAINTEST = 0.01;

/** `node` to place, `show(weights, query)` to draw row `query` of the weights, `stop()`. */
export function arcs(pieces, onQuery) {
  const tokens = pieces.map((piece, i) =>
    el(
      "button",
      { type: "button", class: "arc-token", onclick: () => onQuery(i) },
      el("span", { class: "arc-text" }, visible(piece.text)),
      " ",
      el("span", { class: "arc-share" }),
    ),
  );
  const drawing = svg("svg", { class: "arcs-drawing", height: HEIGHT, "aria-hidden": "true" });
  const row = el("div", { class: "arcs-row", role: "group", "aria-label": "Tokens" }, tokens);
  const node = el("div", { class: "arcs" }, el("div", { class: "arcs-inner" }, drawing, row));
  roving(row, "button");
  let shown = null;

  function draw() {
    if (!shown || !row.offsetWidth) return;
    drawing.setAttribute("width", row.offsetWidth);
    const middles = tokens.map((token) => token.offsetLeft + token.offsetWidth / 2);
    drawing.replaceChildren(
      ...middles
        .slice(0, shown.query + 1)
        .map((middle, key) => [middle, shown.weights[key]])
        .filter(([, weight]) => weight >= FAINTEST)
        .map(([middle, weight]) => arc(middle, middles[shown.query], weight)),
    );
  }

  function show(weights, query) {
    shown = { weights, query };
    tokens.forEach((token, key) => mark(token, weights[key], key, query));
    draw();
    reveal(node, tokens[query]);
  }

  const observer = new ResizeObserver(() => {
    draw();
    if (shown) reveal(node, tokens[shown.query]);
  });
  observer.observe(row);
  observer.observe(node);
  return { node, show, stop: () => observer.disconnect() };
}

// Scrolls a row that is too wide just so far that the token is seen.
function reveal(box, token) {
  const end = token.offsetLeft + token.offsetWidth;
  if (end > box.scrollLeft + box.clientWidth) box.scrollLeft = end - box.clientWidth;
  if (token.offsetLeft < box.scrollLeft) box.scrollLeft = token.offsetLeft;
}

function mark(token, weight, key, query) {
  const seen = key <= query;
  token.setAttribute("aria-pressed", String(key === query));
  token.classList.toggle("unseen", !seen);
  token.style.setProperty("--weight", seen ? weight.toFixed(4) : "0");
  token.lastChild.textContent = seen ? rounded(weight) : "\u2013";
}

// Whole percent: the sentence below the row has the digits.
function rounded(weight) {
  return weight < 0.005 ? "<1 %" : `${Math.round(100 * weight)} %`;
}

function arc(from, to, weight) {
  const style = { strokeWidth: `${1 + 11 * weight}px`, strokeOpacity: 0.2 + 0.8 * weight };
  if (from === to) return svg("circle", { cx: to, cy: HEIGHT - 12, r: 7, class: "arc", style });
  const radius = Math.abs(to - from) / 2;
  const height = Math.min(radius, HEIGHT - 14);
  const path = `M${from} ${HEIGHT}A${radius} ${height} 0 0 1 ${to} ${HEIGHT}`;
  return svg("path", { d: path, class: "arc", style });
}
