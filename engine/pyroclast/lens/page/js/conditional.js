// Conditional probability twice: on a population of dots, and with two words of the model.

import { el, head, percent, region, replace, visible } from "./text.js";
import { distribution } from "./logits.js";

const N = 100;

// A hundred people, some of whom play tennis, football or both.
export function dots(context) {
  const n = { tennis: 40, football: 50, both: 30 };
  let onlyFootball = false;
  const [field, sums] = [el("div", { class: "dots", role: "img" }), el("div")];
  const show = () => {
    n.both = Math.min(n.both, n.tennis, n.football);
    n.both = Math.max(n.both, n.tennis + n.football - N);
    both.set(n.both);
    replace(field, Array.from({ length: N }, (_, i) => dot(i, n, onlyFootball)));
    field.setAttribute("aria-label", `${N} people: ${n.tennis} play tennis, ${n.football} play `
      + `football, ${n.both} play both`);
    replace(sums, sumsOf(n));
  };
  const slider = (key, label) => context.charts.slider({
    id: `dots-${key}`, label, value: n[key], min: 0, max: N, step: 1,
    oninput: (value) => { n[key] = value; show(); },
  });
  const both = slider("both", "Both");
  const sliders = [slider("tennis", "Play tennis"), slider("football", "Play football"), both];
  const toggle = el("button", { type: "button", "aria-pressed": false, onclick: () => {
    onlyFootball = !onlyFootball;
    toggle.setAttribute("aria-pressed", String(onlyFootball));
    show();
  } }, "Look at the football players only");
  show();
  return [
    el("p", {}, "“Given football” means: forget everyone else, and count again. The words so far do "
      + "the same to a text: of all texts, only those that begin like this are left."),
    el("div", { class: "columns" }, el("div", { class: "stack" }, field, legend()),
      el("div", { class: "stack" }, el("div", { class: "sliders" }, sliders),
        el("div", { class: "actions" }, toggle), sums)),
  ];
}

// The first n.tennis dots play tennis; football begins so that n.both overlap.
function dot(i, n, onlyFootball) {
  const tennis = i < n.tennis;
  const start = n.tennis - n.both;
  const football = i >= start && i < start + n.football;
  const kinds = ["dot-person", tennis && "plays-tennis", football && "plays-football",
    onlyFootball && !football && "is-out"];
  return el("span", { class: kinds.filter(Boolean).join(" ") });
}

function legend() {
  const item = (kinds, text) => el("span", { class: "legend-item" },
    el("span", { class: `dot-person ${kinds}` }), text);
  return el("p", { class: "legend faint" }, item("plays-tennis", "tennis"),
    item("plays-football", "football"), item("plays-tennis plays-football", "both"),
    item("", "neither"));
}

function sumsOf({ tennis, football, both }) {
  const p = (n, of) => (of ? `${n} / ${of} = ${percent(n / of)}` : "nobody is left");
  const rows = [
    ["P(tennis)", p(tennis, N)],
    ["P(football)", p(football, N)],
    ["P(tennis and football)", p(both, N)],
    ["P(tennis | football)", p(both, football)],
    ["P(football | tennis)", p(both, tennis)],
  ];
  return el("table", { class: "plain num wraps" },
    el("caption", { class: "visually-hidden" }, "The probabilities of these people"),
    el("tbody", {}, rows.map(([name, value]) =>
      el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)))));
}

// The chain rule with the model's own words: P(A and B) = P(A) P(B | A).
export async function words(root, context, given, id) {
  const answer = await context.ask("next", {
    token_ids: [...given.token_ids, id],
  }, { context: false, as: "chain" });
  if (!answer) return;
  const after = distribution(answer);
  const [spelled] = given.top.filter((row) => row.id === id);
  const first = visible(spelled?.text ?? `#${id}`);
  const rows = after.top.slice(0, 5);
  const p = given.p[id];
  replace(root, el("section", { class: "card stack" },
    el("h2", {}, "Two words: P(A and B) = P(A) · P(B | A)"),
    el("p", {}, "Suppose that the next token is ", el("span", { class: "token" }, first),
      `, which has P(A) = ${percent(p)}. The model reads it, and says what follows. A text of many `
      + "words is only this product, one factor for each word."),
    region("Two words",
      el("table", { class: "plain num" },
        el("caption", { class: "visually-hidden" }, "Probabilities of pairs of tokens"),
        head(["A", "B", "P(A)", "P(B | A)", "P(A and B)"]),
        el("tbody", {}, rows.map((row) => el("tr", {},
          el("td", {}, el("span", { class: "token" }, first)),
          el("td", {}, el("span", { class: "token" }, visible(row.text))),
          el("td", {}, percent(p)), el("td", {}, percent(row.p)),
          el("td", {}, percent(p * row.p)))))))));
}
