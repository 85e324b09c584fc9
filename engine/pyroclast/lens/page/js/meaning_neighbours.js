// The nearest neighbours of a token, by the cosine of the model's own embeddings.

import { asker } from "./asks.js";
import { cosineTable } from "./cosine_table.js";
import { el, replace, visible } from "./dom.js";
import { section, textField } from "./fields.js";

const N_NEIGHBOURS = 12;
const NEAR = "bank";

/** {node, show()} */
export function neighboursOf(context, patch) {
  // What was typed stands inside a text; a neighbour that was chosen is taken as it is written.
  const near = () => context.state.view.near ?? NEAR;
  const isExact = () => context.state.view.exact === "1";
  const field = textField({
    label: "Word",
    value: near().trim(),
    onInput: (text) => patch({ near: text.trim(), exact: null }),
  });
  const told = el("p", { class: "faint" });
  const table = el("div");
  const refused = (why) => {
    replace(told, why);
    replace(table);
  };
  const ask = asker(context, "neighbours", refused);
  let shown = "";
  const node = section(
    "Its nearest neighbours",
    "Each token is a place: a list of numbers, its embedding. Tokens that are used " +
      "alike lie in like directions. The cosine says how alike: 1 is the same direction, " +
      "0 has nothing in common. Choose a neighbour to go there.",
    el("div", { class: "controls" }, field.node),
    told,
    table,
  );

  async function show() {
    field.set(near().trim());
    const key = JSON.stringify([near(), isExact(), context.state.model]);
    if (!near().trim() || key === shown) return;
    shown = key;
    const asked = isExact() ? await written(near()) : { word: near() };
    const answer = asked && (await ask({ ...asked, k: N_NEIGHBOURS }));
    if (!answer) return;
    const { pieces } = answer;
    replace(told, origin(pieces));
    const onpick = (row) => patch({ near: row.text, exact: "1" });
    const wasInside = table.contains(document.activeElement);
    replace(table, cosineTable(`Nearest to ${visible(pieces[0].text)}`, answer.rows, { onpick }));
    if (wasInside) table.querySelector("button")?.focus();
  }

  // {token}: the first of a text that is taken as it is written.
  async function written(text) {
    const answer = await asker(context, "tokens", refused, "spelling")({ text });
    const own = answer?.pieces.filter((piece) => !piece.special);
    if (own && !own.length) refused("This word is no text to the model.");
    return own?.length ? { token: own[0].id } : null;
  }

  return { node, show };
}

function origin(pieces) {
  const first = visible(pieces[0].text);
  return pieces.length === 1
    ? `Nearest to ${first}, token ${pieces[0].id}.`
    : `This word has ${pieces.length} tokens; nearest to the first, ${first}.`;
}
