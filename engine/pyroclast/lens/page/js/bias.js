// Bias and mask: what is added to the logits of chosen tokens, and whether only these may come.

import { el, fixed, replace, visible } from "./text.js";

const WIDEST = 10;

// {node, show(), pick(id)}; texts: of tokens, by id.
export function biases(context, texts) {
  const list = el("div", { class: "sliders" });
  const only = el("input", { type: "checkbox", id: "only-picked" });
  const params = () => context.state.params;
  const change = (patch) => context.onChange({ params: { ...params(), ...patch } });
  only.addEventListener("change", () =>
    change({ allowed_token_ids: only.checked ? ids(params()) : null }));
  const node = el("section", { class: "card stack", hidden: true },
    el("h2", {}, "Bias and mask"), list,
    el("p", {}, el("label", { for: "only-picked" }, only, " Allow these tokens only (the mask)")));
  let shown = "";
  const show = () => {
    const listed = ids(params());
    node.hidden = listed.length === 0;
    only.checked = params().allowed_token_ids !== null;
    if (listed.join() === shown) return;
    shown = listed.join();
    replace(list, listed.map((id) => row(id)));
  };
  const row = (id) => el("div", {}, context.charts.slider({
    id: `bias-${id}`, label: visible(texts.of(id)), value: params().logit_bias[id],
    min: -WIDEST, max: WIDEST, step: 0.5, format: (x) => `${x > 0 ? "+" : ""}${fixed(x, 1)}`,
    oninput: (x) => change({ logit_bias: { ...params().logit_bias, [id]: x } }),
  }), el("button", { type: "button", class: "quiet", onclick: () => remove(id) }, "Remove"));
  const remove = (id) => {
    const { [id]: _, ...rest } = params().logit_bias;
    const left = Object.keys(rest).map(Number);
    change({ logit_bias: rest,
      allowed_token_ids: params().allowed_token_ids && left.length ? left : null });
  };
  const pick = (id) => {
    const logit_bias = { [id]: 0, ...params().logit_bias };
    change({ logit_bias, ...(params().allowed_token_ids
      ? { allowed_token_ids: Object.keys(logit_bias).map(Number) } : {}) });
  };
  return { node, show, pick };
}

function ids(params) {
  return Object.keys(params.logit_bias).map(Number);
}
