// The sampler's sliders, for every part that samples.

import { el } from "./text.js";
import { DEFAULT_PARAMS } from "./state.js";

const fixed = (digits) => (x) => x.toFixed(digits);
// top-k: 0 is off, then 1, 2, 5, 10, ... 1000 in equal steps of the slider.
const KS = [0, 1, 2, 3, 5, 10, 20, 40, 100, 200, 500, 1000];
const nearestK = (k) => KS.reduce((best, x, i) => (Math.abs(x - k) < Math.abs(KS[best] - k) ? i : best), 0);

const SLIDERS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2.5, step: 0.05, format: fixed(2),
    hint: "Below 1 the likely gain, above 1 the rare. 0: always the likeliest." },
  { name: "top_p", label: "top-p", min: 0.01, max: 1, step: 0.01, format: fixed(2), off: 1,
    hint: "Keeps the fewest tokens that hold this share." },
  { name: "top_k", label: "top-k", min: 0, max: KS.length - 1, step: 1, off: 0, to: (i) => KS[i],
    from: nearestK, hint: "Keeps so many, the most likely." },
  { name: "min_p", label: "min-p", min: 0, max: 0.5, step: 0.01, format: fixed(2), off: 0,
    hint: "Keeps tokens with this share of the best one's P." },
  { name: "typical_p", label: "typical-p", min: 0.01, max: 1, step: 0.01, format: fixed(2), off: 1,
    hint: "Keeps tokens of average surprise." },
  { name: "top_n_sigma", label: "top-nσ", min: 0, max: 4, step: 0.1, format: fixed(1), off: 0,
    hint: "Keeps logits so many deviations from the best." },
  { name: "repetition_penalty", label: "Repetition penalty", min: 1, max: 2, step: 0.05,
    format: fixed(2), off: 1, hint: "Above 1: what has occurred gets rarer." },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1,
    format: fixed(1), off: 0, hint: "Once for a word that was written." },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1,
    format: fixed(1), off: 0, hint: "For each time that it was written." },
];
export const FEW = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"];

// {node, show(state)}: sliders for `only` (all of them if null), and the seed.
// onChange gets a patch of the state.  id: before the ids of the inputs, where a page has two; hasSeed:
// whether the seed is among them; get: the state that the sliders show.
export function controls(context, onChange, { only = null, id = "set", hasSeed = true,
  get = (s) => s } = {}) {
  const current = () => get(context.state);
  const sliders = SLIDERS.filter((each) => !only || only.includes(each.name)).map((each) => {
    const node = context.charts.slider({
      ...each, id: `${id}-${each.name}`, value: current().params[each.name],
      oninput: (value) => onChange({ params: { ...current().params, [each.name]: value } }),
    });
    return { name: each.name, node };
  });
  const seed = seedField(`${id}-seed`, current().seed, (value) => onChange({ seed: value }));
  const reset = el("button", { type: "button",
    onclick: () => onChange({ params: { ...DEFAULT_PARAMS } }) }, "Reset");
  const show = (state) => {
    for (const { name, node } of sliders) {
      const input = node.querySelector("input");
      if (document.activeElement !== input) node.set(get(state).params[name]);
    }
    seed.set(get(state).seed);
  };
  const [few, rare] = [true, false].map((isFew) => el("div", { class: "sliders" },
    sliders.filter((each) => FEW.includes(each.name) === isFew).map((each) => each.node)));
  const more = rare.childElementCount ? el("details", { open: isUsed(current().params) },
    el("summary", {}, "More cuts and penalties"), rare) : null;
  const node = el("div", { class: "stack" }, few, more,
    el("div", { class: "actions" }, hasSeed && seed.node, reset));
  return { node, show };
}

// Whether one of the sliders is moved that are shown on demand.
function isUsed(params) {
  return SLIDERS.some(({ name }) =>
    !FEW.includes(name) && params[name] !== DEFAULT_PARAMS[name]);
}

function seedField(id, value, onChange) {
  const input = el("input", { type: "number", id, min: "0", max: "9007199254740991", step: "1" });
  input.value = String(value);
  input.addEventListener("input", () => {
    if (input.validity.valid && input.value !== "") onChange(Number(input.value));
  });
  const next = el("button", { type: "button", onclick: () => {
    input.value = String(Number(input.value) + 1);
    onChange(Number(input.value));
  } }, "Next seed");
  const set = (seed) => {
    if (document.activeElement !== input) input.value = String(seed);
  };
  const label = el("label", { class: "label", for: id }, "Seed");
  return { node: el("span", { class: "seed" }, label, input, next), set };
}
