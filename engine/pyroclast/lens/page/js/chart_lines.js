// A line chart: one line per series with its name at the line's end, so that it reads without
// colour, and a marker that a slider moves.

import { svg } from "./dom.js";
import { linear, ticks } from "./scales.js";

const TOP = 12;
const BOTTOM = 40;
const LEFT = 56;
const LABEL_HEIGHT = 15;
const LETTER = 7.6;

/** series: [{name, values, style}] with one value per x; `style`, from 0 on, chooses the colour.
 * `marker` is the index of an x, `format` writes a value of the vertical axis. */
export function lineChart({ width, height = 280, xs, series, xLabel, format, marker }) {
  const longest = Math.max(0, ...series.map((line) => line.name.length));
  const right = width - 12 - longest * LETTER;
  const values = series.flatMap((line) => [...line.values]).filter(Number.isFinite);
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
  const x = linear(xs[0], xs.at(-1), LEFT, right);
  const y = linear(low, high || 1, height - BOTTOM, TOP);
  const frame = { height, right, x, y };
  return svg(
    "svg",
    { class: "lines", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    ticks(low, high || 1, 5).map((mark) => horizontalLine(frame, mark, format)),
    horizontalAxis(frame, xs, xLabel),
    svg("line", {
      class: "marker",
      x1: x(xs[marker]),
      x2: x(xs[marker]),
      y1: TOP,
      y2: height - BOTTOM,
    }),
    series.map((line) => drawn(frame, xs, line)),
    labels(frame, series),
  );
}

function horizontalLine({ right, y }, mark, format) {
  return [
    svg("line", {
      x1: LEFT,
      x2: right,
      y1: y(mark),
      y2: y(mark),
      class: mark ? "grid" : "zero",
    }),
    svg("text", { x: LEFT - 8, y: y(mark) + 4, "text-anchor": "end" }, format(mark)),
  ];
}

function horizontalAxis({ height, right, x }, xs, label) {
  const n = Math.max(2, Math.floor((right - LEFT) / 70));
  return [
    ticks(xs[0], xs.at(-1), n).map((mark) =>
      svg("text", { x: x(mark), y: height - BOTTOM + 17, "text-anchor": "middle" }, mark),
    ),
    svg("text", { x: (LEFT + right) / 2, y: height - 5, "text-anchor": "middle" }, label),
  ];
}

// A value that is missing breaks the line.
function drawn({ x, y }, xs, line) {
  let pen = "M";
  let path = "";
  line.values.forEach((value, i) => {
    const known = Number.isFinite(value);
    if (known) path += `${pen}${x(xs[i]).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = known ? "L" : "M";
  });
  return svg("path", { d: path, class: `line series-${line.style}` });
}

// Names at the ends of the lines, moved apart where they would overlap.
function labels({ right, height, y }, series) {
  const ends = series
    .map((line) => ({ line, at: y([...line.values].findLast(Number.isFinite) ?? 0) }))
    .sort((a, b) => a.at - b.at);
  let free = TOP;
  for (const end of ends) {
    end.at = Math.max(end.at, free);
    free = end.at + LABEL_HEIGHT;
  }
  let limit = height - BOTTOM - 4; // above the numbers of the axis
  for (const end of ends.toReversed()) {
    end.at = Math.min(end.at, limit);
    limit = end.at - LABEL_HEIGHT;
  }
  return ends.map(({ line, at }) =>
    svg("text", { x: right + 8, y: at + 4, class: `series-name series-${line.style}` }, line.name),
  );
}
