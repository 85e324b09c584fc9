// What a second engine of the same model may have other than the first: how its numbers are kept and
// computed.

import { el } from "./dom.js";
import { choice, textField } from "./fields.js";

const FIELDS = [
  { name: "weights", label: "Weights", hint: "Fewer bits a weight: less memory, coarser numbers." },
  { name: "kv_dtype", label: "Memory of the text", hint: "How keys and values of past tokens are kept." },
  { name: "compute", label: "Computing", hint: "float32 rounds the least, and takes the most time." },
];
const AS_IT_IS = "as it is";

// {node, set(variant)}: fields for what meta offers; null where it offers nothing.  onChange gets a
// variant, or null where nothing differs.
export function variantFields(choices, variant, onChange) {
  if (!choices?.weights) return null;
  let now = { ...variant };
  const change = (name, value) => {
    now = { ...now, [name]: value || undefined };
    onChange(given(now));
  };
  const lists = FIELDS.map(({ name, label, hint }) => ({ name, hint, ...choice({
    label,
    options: [["", AS_IT_IS], ...choices[name].map((each) => [each, each])],
    value: now[name] ?? "",
    onChange: (value) => change(name, value),
  }) }));
  const kernels = textField({ label: "Kernels", value: now.kernels ?? "",
    onInput: (value) => change("kernels", value.trim()) });
  kernels.node.querySelector("input").placeholder = "matmul=cpp-baseline";
  const set = (wanted) => {
    now = { ...wanted };
    for (const each of lists) each.set(now[each.name] ?? "");
    kernels.set(now.kernels ?? "");
  };
  const node = el("details", { class: "card variant", open: given(now) !== null },
    el("summary", {}, "Second text: other numbers in the same model"),
    el("p", {}, "A model can be kept in fewer bits, or computed by other code. The sliders of the "
      + "second text follow the first, so that nothing else differs. A second engine is loaded for "
      + "it, which takes a moment."),
    el("div", { class: "fields" },
      lists.map((each) => el("div", {}, each.node, el("p", { class: "faint" }, each.hint))),
      el("div", {}, kernels.node,
        el("p", { class: "faint" }, "Other code for the same sums: ",
          el("code", {}, "pyroclast kernels"), " lists it."))));
  return { node, set };
}

// A variant without what is not set; null where that leaves nothing.
export function given(variant) {
  const some = Object.entries(variant ?? {}).filter(([, value]) => value);
  return some.length ? Object.fromEntries(some) : null;
}

// The variant of a view's fields in the link, such as v.b_weights=q4_0, and back.
export function fromView(view) {
  return given(Object.fromEntries(NAMES.map((name) => [name, view[`b_${name}`]])));
}

export function toView(variant) {
  return Object.fromEntries(NAMES.map((name) => [`b_${name}`, variant?.[name] ?? null]));
}

// "weights q4_0, compute float32".
export function told(variant) {
  return Object.entries(variant).map(([name, value]) => `${TOLD[name]} ${value}`).join(", ");
}

const NAMES = ["weights", "kv_dtype", "compute", "kernels"];
const TOLD = { weights: "weights", kv_dtype: "keys and values", compute: "computed in",
  kernels: "kernels" };
