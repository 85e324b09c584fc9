// Part 1: the text as tokens, with their spaces, ids and bytes.

import { counted, el, head, integer, region, replace, roving, visible } from "./text.js";
import { kind } from "./colours.js";

let context, tokens, table, summary, detail, pieces = [];

export const part = {
  id: "words",
  title: "Words in numbers",
  explain: [
    "A model reads numbers, not letters: the text is cut into tokens, which are words or pieces of "
    + "words, and each token has a number in the model's vocabulary.",
    "A space usually belongs to the token after it, shown here as a dot.",
    "Tokens with a dashed edge are special: they mark where a text or a message begins and ends, "
    + "and the chat template adds them.",
  ],
  code: "engine/pyroclast/text/tokenizer.py",

  async open(root, given) {
    context = given;
    summary = el("div");
    tokens = el("div", { class: "tokens", role: "group", "aria-label": "Tokens" });
    detail = el("p", { class: "detail num", role: "status" });
    table = region("All tokens");
    root.append(summary, tokens, detail,
      el("details", {}, el("summary", {}, "All tokens as a table"), table));
    await show();
  },

  async update(change) {
    if (change.has("text") || change.has("messages") || change.has("token_ids")
      || change.has("model")) await show();
  },

  close() {},
  data: () => null,
};

async function show() {
  const answer = await context.ask("tokens");
  if (!answer) return;
  pieces = answer.pieces;
  const n_bytes = pieces.reduce((sum, piece) => sum + piece.bytes.length, 0);
  const n_added = pieces.filter((piece) => piece.template).length;
  replace(summary, context.charts.figures([
    { title: "Tokens", value: integer(pieces.length),
      note: n_added ? `${integer(n_added)} of them from the chat template` : "" },
    { title: "Bytes for each token", value: pieces.length
      ? (n_bytes / pieces.length).toFixed(1) : "–" },
    { title: "Tokens that the model knows", value: integer(context.meta.vocab_size) },
  ]));
  replace(tokens, pieces.map(chip));
  roving(tokens, "button");
  replace(table, tableOf(pieces));
  detail.textContent = pieces.length
    ? "Point at a token, or move between them with the arrow keys." : "No tokens yet: write a few words.";
}

function chip(piece, i) {
  const { fill, ink } = kind(i % 5);
  const kinds = ["chip", piece.special && "is-special", piece.template && "is-template"];
  const tell = () => { detail.textContent = inWords(piece, i); };
  return el("button", {
    type: "button", class: kinds.filter(Boolean).join(" "), "data-id": String(piece.id),
    style: { "--fill": fill, "--on": ink }, onfocus: tell, onmouseenter: tell, onclick: tell,
  }, el("span", { class: "chip-text" }, visible(piece.text)),
  el("span", { class: "chip-id num" }, piece.id));
}

function inWords(piece, i) {
  const origin = piece.template ? "added by the chat template"
    : piece.special ? "a special token" : counted(piece.bytes.length, "byte");
  return `Token ${i + 1} of ${pieces.length}: “${visible(piece.text)}”, id ${piece.id}, ${origin}`
    + (piece.bytes.length ? ` (${hex(piece.bytes)})` : "");
}

function tableOf(all) {
  const heads = ["Position", "Token", "Id", "Bytes", "Kind"];
  return el("table", { class: "plain" },
    el("caption", { class: "visually-hidden" }, "All tokens of the text"),
    head(heads),
    el("tbody", {}, all.map((piece, i) => el("tr", {},
      el("td", { class: "num" }, i + 1),
      el("th", { scope: "row" }, el("span", { class: "token" }, visible(piece.text))),
      el("td", { class: "num" }, piece.id),
      el("td", { class: "num" }, hex(piece.bytes)),
      el("td", {}, piece.template ? "template" : piece.special ? "special" : "text")))));
}

function hex(bytes) {
  return bytes.map((b) => b.toString(16).padStart(2, "0")).join(" ");
}
