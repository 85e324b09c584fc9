// Greedy text, the text of the settings, and text at a high temperature, side by side.

import { el, replace } from "./text.js";
import { word } from "./word.js";
import { DEFAULT_PARAMS, sampling } from "./state.js";

const N_TOKENS = 32;

// {node, close(), data()}.
export function loops(context) {
  const columns = [
    { title: "Greedy", note: "temperature 0: the likeliest token each time, and soon the same again",
      params: () => ({ ...DEFAULT_PARAMS, temperature: 0 }) },
    { title: "These settings", note: "with the seed above", params: () => context.state.params },
    { title: "Hot", note: "temperature 2, nothing cut: rare tokens lead to rarer ones",
      params: () => ({ ...DEFAULT_PARAMS, temperature: 2 }) },
  ].map((each, i) => ({ ...each, as: `loop-${i}`, steps: context.saved?.[i] ?? [],
    text: el("p", { class: "running-text" }) }));
  columns.forEach((column) => showText(column));
  const run = el("button", { type: "button", class: "strong", hidden: context.saved !== null,
    onclick: () => Promise.all(columns.map((column) => write(context, column))) }, "Write three texts");
  const node = el("section", { class: "card stack" },
    el("h2", {}, "Greedy, sampled, and too hot"),
    el("p", {}, "Each token's shade is its probability under the model: light for likely, dark for "
      + "unlikely."),
    el("div", { class: "actions" }, run),
    el("div", { class: "columns thirds" }, columns.map((column) =>
      el("div", { class: "stack tight" }, el("h3", {}, column.title),
        el("p", { class: "faint" }, column.note), column.text))));
  return {
    node,
    close: () => columns.forEach((column) => context.cancel(column.as)),
    data: () => columns.map((column) => column.steps),
  };
}

async function write(context, column) {
  column.steps = [];
  replace(column.text);
  const params = sampling({ params: column.params(), seed: context.state.seed });
  const asked = { params, max_tokens: N_TOKENS };
  try {
    for await (const step of context.stream("generate", asked, { as: column.as })) {
      if (step.done) break;
      column.steps.push({ text: step.text, p: step.p });
      column.text.append(word(step, "p"));
    }
  } catch (error) {
    context.notice(error.message);
  }
}

function showText(column) {
  replace(column.text, column.steps.map((step) => word(step, "p")));
}
