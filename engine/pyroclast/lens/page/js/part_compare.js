// Part 8: two settings on the same random numbers, and how far the distributions are apart.

import { counted, el, fixed, head, region, replace, visible } from "./text.js";
import { DEFAULT_PARAMS } from "./state.js";
import { FEW, controls } from "./controls.js";
import { fromView, toView, told, variantFields } from "./variant.js";

const N_TOKENS = 20;
const HOTTER = 1.3;

let context, sides, forms, numbers, result, run, status, found;

export const part = {
  id: "compare",
  title: "Two settings",
  explain: [
    "Two texts from the same words, the same seed and so the same random number at each position: "
    + "where they differ, the setting did it.",
    "The Kullback–Leibler divergence (KL) tells how far apart the two distributions are at each "
    + "token; 0 means that they agree.",
    "The numbers of a text do not depend on what else the machine computes, so nothing else can "
    + "make the difference.",
  ],
  code: "engine/pyroclast/lens/versus.py",

  async open(root, handed) {
    context = handed;
    found = context.saved?.found ?? null;
    sides = context.saved?.sides ?? {
      a: { params: { ...DEFAULT_PARAMS, ...context.state.params }, model: context.state.model },
      b: { params: { ...DEFAULT_PARAMS, ...context.state.params,
        temperature: numberOf(context.state.view.bt) ?? HOTTER },
      model: context.state.view.bm ?? context.state.model, variant: fromView(context.state.view) },
    };
    result = el("div", { class: "stack" });
    status = el("p", { class: "faint", role: "status" });
    forms = { a: form("a", "First"), b: form("b", "Second") };
    run = el("button", { type: "button", class: "strong", disabled: context.saved !== null,
      onclick: () => compare().catch((error) => context.notice(error.message)) }, "Compare");
    numbers = context.saved ? null : variantFields(context.meta.variants, sides.b.variant,
      (variant) => change("b", { variant }));
    root.append(el("div", { class: "columns" }, forms.a.node, forms.b.node), numbers?.node ?? "",
      el("div", { class: "actions" }, run, status), result);
    show();
    if (!context.saved) await compare();
  },

  async update(change) {
    if (change.has("model")) follow();
    for (const each of Object.values(forms)) each.controls.show(context.state);
    if (["text", "messages", "token_ids", "model", "seed"].some((name) => change.has(name)))
      await compare();
  },

  close() {},
  data: () => ({ sides, found }),
};

function numberOf(text) {
  const x = Number(text);
  return text && Number.isFinite(x) ? x : null;
}

function form(name, title) {
  const models = context.meta.models;
  const choice = models.length > 1 ? el("select", { "aria-label": `${title} model`,
    onchange: (event) => change(name, { model: event.target.value }) },
  models.map((model) => el("option", { value: model, selected: model === sides[name].model }, model))) : null;
  const own = controls(context, (patch) => change(name, patch), {
    only: FEW, id: `side-${name}`, hasSeed: name === "a", get: (state) => ({ ...state, ...sides[name] }),
  });
  return { choice, controls: own,
    node: el("section", { class: "card stack", "data-side": name },
      el("h2", {}, title), choice, own.node) };
}

// The page's model has changed: the sides go with it, the second one unless it has its own.
function follow() {
  const { model, view } = context.state;
  sides = { a: { ...sides.a, model }, b: { ...sides.b, model: view.bm ?? model } };
  for (const [name, { choice }] of Object.entries(forms))
    if (choice) choice.value = sides[name].model ?? context.meta.models[0];
}

// A side's own parameters and model; the seed is shared.
function change(name, patch) {
  if (patch.seed !== undefined) {
    context.onChange({ seed: patch.seed });
    return;
  }
  // With other numbers, the sliders go with the first side's: one thing differs, not two.
  const params = patch.variant && !sides.b.variant ? { params: { ...sides.a.params } } : {};
  sides[name] = { ...sides[name], ...params, ...patch };
  if (name === "a") context.onChange({ params: sides.a.params });
  else context.onChange({ view: { ...context.state.view, bt: String(sides.b.params.temperature),
    bm: sides.b.model, ...toView(sides.b.variant) } });
  forms[name].controls.show(context.state);
}

async function compare() {
  run.disabled = true;
  status.textContent = sides.b.variant
    ? "Comparing with a second engine, which is loaded first…" : "Comparing…";
  const side = ({ params, model, variant }) => ({ params: { ...params, seed: context.state.seed },
    ...(model ? { model } : {}), ...(variant ? { variant } : {}) });
  try {
    const answer = await context.ask("compare",
      { a: side(sides.a), b: side(sides.b), max_tokens: N_TOKENS });
    if (!answer) return;
    found = { ...answer, variant: sides.b.variant };
    show();
  } finally {
    run.disabled = false;
    status.textContent = "";
  }
}

function show() {
  if (!found) return;
  const { a, b, kl, first_difference: first } = found;
  const mean = kl.reduce((sum, x) => sum + x, 0) / Math.max(1, kl.length);
  replace(result,
    context.charts.figures([
      { title: "Alike at the beginning",
        value: first === null ? "all" : counted(first, "token"),
        note: first === null ? "the settings made no difference here"
          : first === 0 ? "the texts part at once" : "then the texts part" },
      { title: "Mean divergence", value: `${fixed(mean, 4)} nats`, note: "over the first text" },
    ]),
    el("div", { class: "columns" }, running("First", a, first),
      running(found.variant ? `Second: ${told(found.variant)}` : "Second", b, first)),
    el("section", { class: "card stack" }, el("h2", {}, "Divergence at each token of the first text"),
      chart(kl), klTable(a, kl)));
  context.announce(first === null ? "The texts are alike"
    : `The texts part after ${counted(first, "token")}`);
}

function running(title, pieces, first) {
  return el("section", { class: "card stack tight" }, el("h2", {}, title),
    el("p", { class: "running-text" }, pieces.map((piece, i) => el("span", {
      class: i === first ? "is-parting" : first === null || i < first ? "is-alike" : "",
    }, piece.text))));
}

function chart(kl) {
  if (kl.length < 2) return null;
  const steps = [...kl, kl.at(-1)]; // the last one is as wide as the others
  return context.charts.curve(steps.map((y, x) => ({ x: x + 1, y })), {
    title: "KL(first ‖ second) in nats.", xTitle: "token", top: Math.max(0.001, ...kl), step: true,
    format: (y) => String(Number(y.toPrecision(2))),
  });
}

function klTable(pieces, kl) {
  return el("details", {}, el("summary", {}, "As a table"),
    region("Divergence by token",
      el("table", { class: "plain num" },
        el("caption", { class: "visually-hidden" }, "Divergence at each token"),
        head(["Token", "KL in nats"]),
        el("tbody", {}, kl.map((x, i) => el("tr", {},
          el("th", { scope: "row" }, el("span", { class: "token" }, visible(pieces[i].text))),
          el("td", {}, fixed(x, 4))))))));
}
