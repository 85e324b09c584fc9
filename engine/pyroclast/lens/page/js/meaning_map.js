// A map of chosen words: their embeddings along the two directions in which they differ most.

import { asker } from "./asks.js";
import { el, replace, svg, visible } from "./dom.js";
import { section, textField } from "./fields.js";
import { linear, responsive, unit } from "./scales.js";
import { percent } from "./format.js";

const WORDS =
  "king queen prince princess man woman boy girl Paris London Berlin Rome France England " +
  "Germany Italy red blue green yellow dog cat horse cow apple bread milk " +
  "cheese Monday Tuesday Friday Sunday";
const MARGIN = 40;
const ZOOM = 1.5;
const [NEAREST, FARTHEST] = [0.75, 40];
const STEP = 40;
const LETTER = 7.4;
const LABELS = [
  { dx: 7, dy: 4, anchor: "start", share: 0 },
  { dx: -7, dy: 4, anchor: "end", share: 1 },
  { dx: 0, dy: -7, anchor: "middle", share: 0.5 },
  { dx: 0, dy: 16, anchor: "middle", share: 0.5 },
];

/** {node, show(), stop()} */
export function mapOf(context, patch) {
  const ask = asker(context, "map", (why) => replace(told, why));
  const words = () => context.state.view.map ?? WORDS;
  let points = [];
  let found = "";
  const place = { zoom: 1, x: 0, y: 0 };
  const box = el("div", {
    class: "map",
    tabIndex: 0,
    role: "region",
    "aria-label": "Map of words; arrow keys move it, plus and minus zoom",
  });
  const canvas = responsive(box, (width) => drawn(width, points, place, found));
  const told = el("p", { class: "reading", role: "status" });
  const list = textField({
    label: "Words",
    value: words(),
    rows: 3,
    onInput: (text) => patch({ map: text.trim() }),
  });
  const search = textField({
    label: "Find on the map",
    value: "",
    onInput: (text) => {
      found = text.trim().toLowerCase();
      canvas.draw();
    },
  });
  const zoom = (factor) => {
    const now = Math.min(FARTHEST, Math.max(NEAREST, place.zoom * factor));
    place.x *= now / place.zoom;
    place.y *= now / place.zoom;
    place.zoom = now;
    canvas.draw();
  };
  const move = (dx, dy) => {
    place.x += dx / unit();
    place.y += dy / unit();
    canvas.draw();
  };
  const reset = () => {
    Object.assign(place, { zoom: 1, x: 0, y: 0 });
    canvas.draw();
  };
  draggable(box, move, zoom);
  const button = (label, text, onclick) =>
    el("button", { type: "button", "aria-label": label, onclick }, text);
  const node = section(
    "A map of meaning",
    "The embedding has hundreds of directions; the map keeps the two in which these " +
      "words differ most. Words of one kind gather in one place. Drag the map to move it.",
    list.node,
    el(
      "div",
      { class: "controls" },
      search.node,
      el(
        "div",
        { class: "map-tools" },
        button("Zoom in", "+", () => zoom(ZOOM)),
        button("Zoom out", "\u2212", () => zoom(1 / ZOOM)),
        button("Show all words", "All", reset),
      ),
    ),
    box,
    told,
  );

  async function show() {
    list.set(words());
    const asked = [
      ...new Set(
        words()
          .split(/[\s,]+/)
          .filter(Boolean),
      ),
    ];
    if (asked.length < 3) {
      replace(told, "Write three words or more.");
      return;
    }
    const answer = await ask({ words: asked });
    if (!answer) return;
    points = answer.points;
    canvas.draw();
    const [x, y] = answer.explained;
    replace(
      told,
      `Left to right shows ${percent(x)} of the words\u2019 differences, ` +
        `up and down ${percent(y)}; ` +
        "what the other directions hold is not on the map.",
    );
  }

  return { node, show, stop: canvas.stop };
}

function drawn(width, points, place, found) {
  const height = Math.min(560, Math.max(320, Math.round(width * 0.6)));
  if (!points.length) return svg("svg", { width, height });
  const xs = points.map((point) => point.x);
  const ys = points.map((point) => point.y);
  const x = linear(Math.min(...xs), Math.max(...xs), MARGIN, width - 2 * MARGIN);
  const y = linear(Math.min(...ys), Math.max(...ys), height - MARGIN, MARGIN);
  const placed = (at, middle, by) => middle + (at - middle) * place.zoom + by;
  return svg(
    "svg",
    {
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": points.map((point) => point.word.trim()).join(", "),
    },
    labelled(
      points.map((point) => ({
        word: visible(point.word.trim()),
        isFound: found !== "" && point.word.toLowerCase().includes(found),
        x: placed(x(point.x), width / 2, place.x),
        y: placed(y(point.y), height / 2, place.y),
      })),
    ).map(dot),
  );
}

function dot({ word, isFound, x, y, label }) {
  return svg(
    "g",
    {
      class: isFound ? "map-word is-found" : "map-word",
      transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
    },
    svg("title", {}, word),
    svg("circle", { r: isFound ? 5 : 3 }),
    label && svg("text", { x: label.dx, y: label.dy, "text-anchor": label.anchor }, word),
  );
}

// Each point with the first of four places for its word that is free; a word that finds none
// appears when one zooms in.  What was searched for is placed first.
function labelled(points) {
  const taken = points.map(({ x, y }) => [x - 3, y - 3, x + 3, y + 3]);
  const order = points.toSorted((a, b) => Number(b.isFound) - Number(a.isFound));
  for (const point of order) {
    const wide = point.word.length * LETTER;
    point.label =
      LABELS.find((label) => {
        const left = point.x + label.dx - wide * label.share;
        const box = [left, point.y + label.dy - 11, left + wide, point.y + label.dy + 3];
        const isFree = !taken.some((other) => overlap(box, other));
        if (isFree) taken.push(box);
        return isFree;
      }) ??
      (point.isFound && LABELS[0]);
  }
  return points;
}

function overlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

function draggable(box, move, zoom) {
  let last = null;
  box.addEventListener("pointerdown", (event) => {
    last = [event.clientX, event.clientY];
    box.setPointerCapture(event.pointerId);
  });
  box.addEventListener("pointermove", (event) => {
    if (!last) return;
    move(event.clientX - last[0], event.clientY - last[1]);
    last = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"])
    box.addEventListener(name, () => {
      last = null;
    });
  const steps = {
    ArrowLeft: [STEP, 0],
    ArrowRight: [-STEP, 0],
    ArrowUp: [0, STEP],
    ArrowDown: [0, -STEP],
  };
  box.addEventListener("keydown", (event) => {
    if (event.key in steps) move(...steps[event.key]);
    else if (event.key === "+") zoom(ZOOM);
    else if (event.key === "-") zoom(1 / ZOOM);
    else return;
    event.preventDefault();
  });
}
