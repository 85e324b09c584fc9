// Asks for the API key of a server that wants one.  It is kept in memory only.

import { el } from "./dom.js";

export function askKey() {
  const value = el("input", { type: "password", id: "key-value", autocomplete: "current-password",
    required: true });
  const dialog = el("dialog", { "aria-labelledby": "key-title" },
    el("form", { method: "dialog" },
      el("h2", { id: "key-title" }, "This server asks for a key"),
      el("input", { type: "text", hidden: true, autocomplete: "username", value: "pyroclast" }),
      el("label", { for: "key-value" }, "API key"), value,
      el("p", { class: "faint" }, "It stays in this tab, and goes to this server only."),
      el("button", { class: "strong" }, "Use the key")));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(value.value.trim());
    }, { once: true });
  });
}
