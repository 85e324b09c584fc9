// The controls of a part: each with its label, its value in words beside it, and one listener.

import { el, replace } from "./dom.js";

// As long as people pause between two letters; shorter would ask for words half written.
const PAUSE_MS = 250;

let made = 0;

function newId() {
  made += 1;
  return `field-${made}`;
}

/** A slider; `say` writes its value.  `set(value, max)` moves it without calling `onInput`. */
export function slider({ label, min, max, step = 1, value, say = String, onInput }) {
  const id = newId();
  const output = el("output", { for: id }, say(value));
  const input = el("input", {
    id,
    type: "range",
    min: String(min),
    max: String(max),
    step: String(step),
    value: String(value),
    "aria-valuetext": say(value),
  });
  let last = max;
  const set = (now, most = last) => {
    last = most;
    input.max = String(most);
    input.value = String(now);
    output.textContent = say(now);
    input.setAttribute("aria-valuetext", say(now));
  };
  input.addEventListener("input", () => {
    set(Number(input.value));
    onInput(Number(input.value));
  });
  return {
    node: el("div", { class: "field" }, el("label", { for: id }, label), output, input),
    set,
  };
}

/** A list to choose from; options: [[value, text]], values are strings.  `fill` sets both anew, and
 * keeps the focus where the options are the same. */
export function choice({ label, options = [], value = "", onChange }) {
  const id = newId();
  const select = el("select", { id, onchange: () => onChange(select.value) });
  let shown = "";
  const fill = (given, now) => {
    const key = JSON.stringify(given);
    if (key !== shown)
      replace(
        select,
        given.map(([each, text]) => el("option", { value: each }, text)),
      );
    shown = key;
    select.value = now;
  };
  fill(options, value);
  const set = (now) => {
    select.value = now;
  };
  return {
    node: el("div", { class: "field" }, el("label", { for: id }, label), select),
    fill,
    set,
  };
}

/** A line of text, or several where rows > 1; wraps: one that is too long for its place goes on
 * below.  onInput is called once typing pauses. */
export function textField({ label, value, rows = 1, wraps = false, onInput }) {
  const id = newId();
  let timer = 0;
  const listen = () => {
    clearTimeout(timer);
    timer = setTimeout(() => onInput(input.value), PAUSE_MS);
  };
  const attributes = { id, spellcheck: "false", autocomplete: "off", oninput: listen };
  const input =
    rows > 1 || wraps
      ? el("textarea", { ...attributes, rows: String(rows), class: wraps ? "line" : "" })
      : el("input", { ...attributes, type: "text" });
  input.value = value;
  const set = (now) => {
    if (document.activeElement !== input) input.value = now;
  };
  return {
    node: el("div", { class: "field text" }, el("label", { for: id }, label), input),
    set,
  };
}

/** Buttons with examples: [[text, onClick]]. */
export function examples(label, list) {
  return el(
    "div",
    { class: "examples", role: "group", "aria-label": label },
    el("span", { class: "faint" }, label),
    list.map(([text, onclick]) => el("button", { type: "button", class: "quiet", onclick }, text)),
  );
}

/** A section of a part, with a heading and a sentence or two. */
export function section(title, words, ...children) {
  return el(
    "section",
    { class: "piece" },
    el("h2", {}, title),
    el("p", { class: "words" }, words),
    children,
  );
}
