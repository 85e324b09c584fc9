// Charts that several parts share.  Bars are a table with widths, so they need no library and a
// screen reader gets the numbers; curves are SVG over d3's scales, each beside a table or a text.

import { percent } from "./format.js";
import { el, roving, svg, visible } from "./dom.js";
import { d3 } from "./drawing.js";

// A sorted table of tokens with bars.
// rows: [{id, text, p, cut, chosen, mark}], cut: who removed it; mark: a second share, drawn as a
// tick.  options: caption; maximum (the p of a full bar); onpick(row); columns: [{title, cell(row),
// optional}], optional ones only where there is room.
export function bars(rows, { caption, maximum, onpick, columns = [] }) {
  const full = maximum ?? Math.max(1e-12, ...rows.map((row) => row.p));
  const heads = ["Token", ...columns.map((c) => c.title), "Probability"];
  const table = el("table", { class: "bars" },
    el("caption", { class: "visually-hidden" }, caption),
    el("colgroup", {}, el("col", { class: "col-token" }),
      columns.map((c) => el("col", { class: c.optional ? "col-num optional" : "col-num" })), el("col")),
    el("thead", { class: columns.length ? "" : "visually-hidden" },
      el("tr", {}, heads.map((name, i) => el("th",
        { scope: "col", class: columns[i - 1]?.optional ? "optional" : "" }, name)))),
    el("tbody", {}, rows.map((row) => barRow(row, full, onpick, columns))));
  if (onpick) roving(table, "button.token");
  return table;
}

function barRow(row, full, onpick, columns) {
  const name = visible(row.text);
  const label = onpick
    ? el("button", { type: "button", class: "token", onclick: () => onpick(row) }, name)
    : el("span", { class: "token" }, name);
  const width = (p) => `${Math.min(100, (100 * p) / full)}%`;
  const kinds = ["bar-row", row.cut && "is-cut", row.chosen && "is-chosen"].filter(Boolean);
  return el("tr", { class: kinds.join(" "), "data-id": String(row.id) },
    el("th", { scope: "row" }, label),
    columns.map((column) => el("td",
      { class: `num faint${column.optional ? " optional" : ""}` }, column.cell(row))),
    el("td", {}, el("div", { class: "bar-cell" },
      el("span", { class: "bar-track", "aria-hidden": true },
        el("span", { class: "bar", style: { width: width(row.p) } }),
        row.mark === undefined ? null
          : el("span", { class: "bar-mark", style: { left: width(row.mark) } })),
      el("span", { class: "num bar-value" }, row.cut ? `cut by ${row.cut}` : percent(row.p)))));
}

// A line through points [{x, y}] over a linear or logarithmic x; y from 0 to `top`.
// options: title, xTitle, yTitle, log, top, step (a staircase), format(y), marks: [{x, y, label}].
export function curve(points, options) {
  const lib = d3();
  if (!lib) return undrawn(options.title);
  // Drawn to size: letters of a scaled picture would be too small on a telephone.
  const width = Math.min(560, Math.max(280, document.documentElement.clientWidth - 72));
  const [height, left, bottom, edge] = [220, 52, 40, 12];
  const xs = points.map((p) => p.x);
  const scale = options.log ? lib.scaleLog() : lib.scaleLinear();
  const x = scale.domain([Math.min(...xs), Math.max(...xs)]).range([left, width - edge]);
  const top = options.top ?? Math.max(...points.map((p) => p.y));
  const y = lib.scaleLinear().domain([0, top]).range([height - bottom, edge]);
  const shape = lib.line().x((p) => x(p.x)).y((p) => y(p.y));
  if (options.step) shape.curve(lib.curveStepAfter);
  const format = options.format ?? String;
  const xTicks = options.log ? powers(x.domain()) : x.ticks(5);
  return el("figure", { class: "chart" },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.title },
      y.ticks(4).map((t) => [
        svg("line", { class: "grid", x1: left, x2: width - edge, y1: y(t), y2: y(t) }),
        svg("text", { class: "tick", x: left - 8, y: y(t), dy: "0.32em", "text-anchor": "end" },
          format(t))]),
      xTicks.map((t) => svg("text",
        { class: "tick", x: x(t), y: height - bottom + 18, "text-anchor": "middle" },
        Number(t).toLocaleString("en-US"))),
      svg("text", { class: "tick", x: width - edge, y: height - 4, "text-anchor": "end" },
        options.xTitle),
      svg("path", { class: "line", d: shape(points) }),
      (options.marks ?? []).map((m) => [
        svg("circle", { class: "dot", cx: x(m.x), cy: y(m.y), r: 4 }),
        svg("text", { class: "mark", x: x(m.x) + 8, y: y(m.y) + 14 }, m.label)])),
    el("figcaption", { class: "faint" }, options.title));
}

function powers([low, high]) {
  const found = [];
  for (let t = 10 ** Math.ceil(Math.log10(low)); t <= high; t *= 10) found.push(t);
  return found;
}

// What stands for a chart where the library is absent.
export function undrawn(title) {
  return el("p", { class: "notice" },
    `${title}: not drawn, because the drawing library is not built. \`make page\` builds it (it `
    + "needs npm). The tables are complete without it.");
}

// A labelled slider with its value beside it; oninput gets the number.
// scale: {min, max, step}; to(x) and from(value) map the slider to the value where it is not linear.
export function slider({ id, label, hint, value, min, max, step, oninput, format = String,
  to = (x) => x, from = (v) => v, off = null }) {
  const out = el("output", { for: id, class: "num" });
  const say = (v) => { out.textContent = off !== null && v === off ? "off" : format(v); };
  const input = el("input", { type: "range", id, min: String(min), max: String(max),
    step: String(step), value: String(from(value)), "aria-describedby": `${id}-hint` });
  const show = (v) => {
    say(v);
    input.setAttribute("aria-valuetext", out.textContent);
  };
  input.addEventListener("input", () => {
    const v = to(Number(input.value));
    show(v);
    oninput(v);
  });
  show(value);
  const node = el("div", { class: "slider" },
    el("label", { for: id }, label), out, input,
    el("p", { id: `${id}-hint`, class: "faint hint" }, hint ?? ""));
  node.set = (v) => {
    input.value = String(from(v));
    show(v);
  };
  return node;
}

// Cards with one number each: [{title, value, note}].  steady: they stay where they are, however
// long the values grow.
export function figures(items, { steady = false } = {}) {
  return el("dl", { class: steady ? "figures steady" : "figures" }, items.map((item) => el("div", {},
    el("dt", {}, item.title), el("dd", {}, item.value),
    item.note ? el("dd", { class: "faint note" }, item.note) : null)));
}


