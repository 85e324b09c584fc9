// What is in the context: its tokens, which of them the cache held, and the next turn of a
// conversation.

import { counted, el, integer, replace, visible } from "./text.js";

// {node, show(pieces), draw(), setCached(n), cached()}; written: () -> the nodes of the answer.
export function conversation(context, written) {
  let [pieces, n_cached] = [[], null];
  const strip = el("div", { class: "context-strip", tabIndex: 0, role: "region",
    "aria-label": "Tokens of the context" });
  const says = el("p", { class: "faint" });
  const message = el("input", { type: "text", id: "next-message" });
  const form = el("form", { class: "actions", onsubmit: (event) => {
    event.preventDefault();
    if (message.value) answer(context, written(), message.value);
    message.value = "";
  } }, el("label", { for: "next-message", class: "label" }, "Your next message"), message,
  el("button", {}, "Send"));
  const draw = () => {
    const answered = written().map(({ text }) => ({ text, isAnswer: true }));
    const all = [...pieces, ...answered];
    replace(strip, all.map((piece, i) => el("span", {
      class: [i < (n_cached ?? 0) && "is-cached", piece.template && "is-template",
        piece.isAnswer && "is-answer"].filter(Boolean).join(" "),
    }, visible(piece.text))));
    says.textContent = `${counted(all.length, "token")}, ${integer(answered.length)} of them written `
      + `here. ${cachedInWords(n_cached)}`;
    form.hidden = !context.state.messages || context.saved !== null;
  };
  return {
    node: el("section", { class: "card stack" }, el("h2", {}, "What is in the context"), strip, says, form),
    show: (found) => { [pieces, n_cached] = [found, null]; draw(); },
    draw,
    setCached: (n) => { if (n !== n_cached) { n_cached = n; draw(); } },
    cached: () => n_cached ?? 0,
  };
}

function cachedInWords(n) {
  if (n === null) return "";
  return n ? "The underlined ones came from the prefix cache, which shares blocks of 32."
    : "None came from the prefix cache, which shares full blocks of 32.";
}

// The answer so far becomes a message, and the next one follows.
async function answer(context, nodes, content) {
  let said = "";
  try {
    if (nodes.length) said = await spelled(context, nodes.map((node) => node.token));
  } catch (error) {
    context.notice(error.message);
    return;
  }
  if (said === undefined) return;
  context.onChange({ token_ids: null, messages: [...context.state.messages,
    { role: "assistant", content: said }, { role: "user", content }] });
}

// The text of tokens.  Their bytes are put together first: one letter may take several tokens.
async function spelled(context, token_ids) {
  const found = await context.ask("tokens", { token_ids }, { context: false, as: "said" });
  const bytes = found?.pieces.filter((piece) => !piece.special).flatMap((piece) => piece.bytes);
  return bytes && new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
}
