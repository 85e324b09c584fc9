// Softmax beside other functions that squash scores: sums, order, and what a shift does.

import { el, fixed, head, percent, region, replace } from "./text.js";

const START = [2, 1, 0.5, -1];
const sum = (values) => values.reduce((a, b) => a + b, 0);
const shares = (values) => values.map((x) => x / sum(values));
const FUNCTIONS = [
  { name: "softmax", of: (z) => shares(z.map((x) => Math.exp(x - Math.max(...z)))),
    says: "Sums to 1, keeps the order, and a shift of all scores changes nothing: only differences count." },
  { name: "sigmoid", of: (z) => z.map((x) => 1 / (1 + Math.exp(-x))),
    says: "Answers yes or no for each score by itself; the sum is anything." },
  { name: "tanh", of: (z) => z.map(Math.tanh),
    says: "Runs from −1 to 1, and a negative number is no probability." },
  { name: "x / sum", of: shares,
    says: "Sums to 1, but negative scores give negative shares, and a shift changes everything." },
];

export function squashing(context) {
  const scores = [...START];
  let shift = 0;
  const out = region("Functions of the scores");
  const show = () => replace(out, tableOf(scores.map((x) => x + shift)));
  const slider = (id, label, value, oninput) => context.charts.slider({
    id, label, value, min: -4, max: 4, step: 0.1, format: (x) => fixed(x, 1), oninput,
  });
  const sliders = scores.map((x, i) => slider(`score-${i}`, `Score ${"ABCD"[i]}`, x,
    (value) => { scores[i] = value; show(); }));
  show();
  return [
    el("div", { class: "sliders" }, sliders, slider("shift", "Added to all scores", 0,
      (value) => { shift = value; show(); })),
    out,
  ];
}

function tableOf(scores) {
  const show = (function_, x) => (function_.name === "tanh" ? fixed(x) : share(x));
  return el("table", { class: "plain num" },
    el("caption", { class: "visually-hidden" }, "Four scores under four functions"),
    head(["Function", "A", "B", "C", "D", "Sum"]),
    el("tbody", {},
      el("tr", {}, el("th", { scope: "row" }, "score"), scores.map((x) => el("td", {}, fixed(x, 1))),
        el("td", {}, fixed(sum(scores), 1))),
      FUNCTIONS.map((each) => {
        const values = each.of(scores);
        return [el("tr", { "data-function": each.name, class: "has-says" },
          el("th", { scope: "row" }, each.name), values.map((x) => el("td", {}, show(each, x))),
          el("td", {}, show(each, sum(values)))),
        el("tr", {}, el("td", { class: "says faint", colSpan: 6 }, el("span", {}, each.says)))];
      })));
}

function share(x) {
  return Number.isFinite(x) ? (x < 0 ? `−${percent(-x)}` : percent(x)) : "no number";
}
