// Elements of the page.  Text of a model or a user only ever becomes a text node or an attribute
// that holds no code: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("aria-")) node.setAttribute(name, String(value));
    else if (value === false) continue;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.setAttribute("class", value);
    else if (name === "style") Object.entries(value).forEach(([k, v]) => setStyle(node, k, v));
    else if (name in node && typeof value !== "string" && !(node instanceof SVGElement))
      node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

function setStyle(node, name, value) {
  if (name.startsWith("--")) node.style.setProperty(name, value);
  else node.style[name] = value;
}

// Adds strings, numbers, nodes and lists of them; null, undefined and false add nothing.
export function append(node, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

// el("button", {class: "quiet", onclick: f, style: {width: "50%"}}, "text", node, ...)
export function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// The same for SVG.
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// The head of a table with these columns.
export function head(names) {
  return el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col" }, name))));
}

// A part of the page that scrolls by itself, also from the keyboard.
export function region(label, ...children) {
  return el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": label }, children);
}

// Replaces what a node holds.  The focus stays on what has the same id, or the same data-id.
export function replace(node, ...children) {
  const focused = node.contains(document.activeElement) ? nameOf(document.activeElement) : null;
  node.replaceChildren();
  append(node, children);
  if (focused) node.querySelector(focused)?.focus();
  return node;
}

// A selector of an element by its id or the data-id around it; null if it has neither.
function nameOf(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  const tag = element.localName;
  const around = element.closest("[data-id]");
  if (!around) return null;
  const place = `[data-id="${CSS.escape(around.dataset.id)}"]`;
  return around === element ? `${tag}${place}` : `${place} ${tag}`;
}

// A token's text with its white space to be seen: "·" for a space, "⏎" for a line break.
export function visible(text) {
  return text === ""
    ? "∅"
    : text.replaceAll(" ", "·").replaceAll("\u00a0", "⍽").replaceAll("\n", "⏎")
      .replaceAll("\t", "⇥").replaceAll("\r", "␍");
}

// The text as a quoted label for screen readers: spaces are named, since "·" is not read.
export function spoken(text) {
  return text.trim() === "" ? `white space ${JSON.stringify(text)}` : text.trim();
}

// Arrow keys, Home and End move the focus among the children of `parent` that match `selector`;
// one of them is in the tab order at a time.
export function roving(parent, selector) {
  const items = () => [...parent.querySelectorAll(selector)];
  const first = items().find((item) => item.tabIndex === 0) ?? items()[0];
  items().forEach((item) => { item.tabIndex = item === first ? 0 : -1; });
  if (parent.dataset.roving) return;
  parent.dataset.roving = "yes";
  parent.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(document.activeElement);
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    let to = at + (steps[event.key] ?? 0);
    if (event.key === "Home") to = 0;
    else if (event.key === "End") to = all.length - 1;
    else if (!(event.key in steps)) return;
    if (at < 0 || !all[to]) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  });
}
