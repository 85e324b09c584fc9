// A table of tokens with a bar for each cosine.

import { el, spoken, visible } from "./dom.js";
import { fixed } from "./format.js";

/** rows: [{id, text, cosine}]; onpick(row) where a token can be chosen; marked: what to stress. */
export function cosineTable(caption, rows, { onpick = null, marked = null } = {}) {
  const name = (row) =>
    onpick
      ? el(
          "button",
          { type: "button", class: "token", onclick: () => onpick(row) },
          visible(row.text),
        )
      : el("span", { class: "token" }, visible(row.text));
  return el(
    "table",
    { class: "bars" },
    el("caption", { class: "visually-hidden" }, caption),
    el("colgroup", {}, el("col", { class: "col-token" }), el("col")),
    el(
      "thead",
      {},
      el("tr", {}, el("th", { scope: "col" }, "Token"), el("th", { scope: "col" }, "Cosine")),
    ),
    el(
      "tbody",
      {},
      rows.map((row) =>
        el(
          "tr",
          { class: marked && row.text.trim() === marked && "is-chosen", "data-id": String(row.id) },
          el("th", { scope: "row", "aria-label": spoken(row.text) }, name(row)),
          el(
            "td",
            {},
            el(
              "div",
              { class: "bar-cell" },
              el(
                "span",
                { class: "bar-track", "aria-hidden": true },
                el("span", {
                  class: "bar",
                  style: { width: `${100 * Math.max(0, row.cosine)}%` },
                }),
              ),
              el("span", { class: "num bar-value" }, fixed(row.cosine, 3)),
            ),
          ),
        ),
      ),
    ),
  );
}
