// The tokens of a text as a row of buttons, one of them chosen.

import { el, replace, roving, spoken, visible } from "./dom.js";

/** {node, show(pieces, chosen)}.  Arrow keys move between the tokens; onChoose gets the index. */
export function tokenRow(onChoose) {
  const node = el("div", { class: "tokens", role: "group", "aria-label": "Tokens" });
  let shown = "";

  function show(pieces, chosen) {
    const key = JSON.stringify(pieces.map((piece) => piece.id));
    // The buttons of the same text stay, and with them the focus.
    if (key !== shown)
      replace(
        node,
        pieces.map((piece, i) =>
          el(
            "button",
            {
              type: "button",
              class: "token-choice",
              "aria-label": spoken(piece.text),
              onclick: () => onChoose(i),
            },
            visible(piece.text),
          ),
        ),
      );
    shown = key;
    [...node.children].forEach((button, i) =>
      button.setAttribute("aria-pressed", String(i === chosen)),
    );
    roving(node, "button");
  }

  return { node, show };
}
