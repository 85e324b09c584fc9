// One token of a running text, shaded by what the model thought of it.

import { el, percent, visible } from "./text.js";
import { amount } from "./colours.js";

// For each measure: how light (1) or dark (0) a token is, and what the ends mean.
export const MEASURES = {
  p: { title: "Probability", low: "unlikely", high: "likely",
    shade: ({ p }) => 1 + Math.log10(Math.max(p, 1e-4)) / 4 },
  rank: { title: "Rank", low: "far down the list", high: "first choice",
    shade: ({ rank }) => 1 - Math.log10(Math.min(rank, 1000)) / 3 },
  entropy: { title: "Entropy", low: "model was unsure", high: "model was sure",
    shade: ({ entropy }) => 1 - Math.min(entropy, 6) / 6 },
};

// attributes: of a button, if it has onclick.
export function word(step, measure, attributes = {}) {
  const { fill, ink } = amount(MEASURES[measure].shade(step));
  const { class: more = "", ...rest } = attributes;
  return el(rest.onclick ? "button" : "span", {
    class: `word ${more}`, ...(rest.onclick ? { type: "button" } : {}),
    title: `${visible(step.text)}: ${percent(step.p)}`, style: { background: fill, color: ink }, ...rest,
  }, rest.onclick ? visibleBreaks(step.text) : step.text);
}

// A line break must be seen to be selected.
function visibleBreaks(text) {
  return text.replaceAll("\n", "⏎\n");
}

export function scale(measure) {
  const { low, high } = MEASURES[measure];
  const steps = Array.from({ length: 9 }, (_, i) => amount(i / 8).fill);
  return el("p", { class: "scale faint" }, low,
    el("span", { class: "scale-bar", "aria-hidden": true },
      steps.map((fill) => el("span", { style: { background: fill } }))), high);
}
