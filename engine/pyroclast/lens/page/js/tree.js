// The branches as a drawing (d3-hierarchy) and as a table, which is complete without it.

import { chance, el, fixed, head, integer, region, svg, visible } from "./text.js";
import { logP } from "./branches.js";

const [ROW, COLUMN, FIRST, LETTERS] = [2.5, 13.75, 6, 24]; // in rem; FIRST: the context's column

export function drawn(branches, d3, onpick) {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const root = d3.hierarchy(branches.runs());
  const layout = d3.tree().nodeSize([ROW * rem, COLUMN * rem])(root);
  const all = layout.descendants();
  const top = Math.min(...all.map((node) => node.x)) - (ROW * rem) / 2;
  const height = Math.max(...all.map((node) => node.x)) - top + (ROW * rem) / 2;
  const width = (FIRST + layout.height * COLUMN) * rem;
  const here = new Set(branches.path());
  const across = (node) => 8 + (node.depth ? FIRST * rem + (node.depth - 1) * COLUMN * rem : 0);
  const at = (node) => ({ x: across(node), y: node.x - top });
  return el("div", { class: "tree", tabIndex: 0, role: "region", "aria-label": "Tree of the branches" },
    svg("svg", { width, height, role: "img", "aria-label": `${branches.leaves().length} branches` },
      layout.links().map(({ source, target }) => link(at(source), at(target))),
      all.map((node) => label(node, here, at(node), onpick))));
}

function link(from, to) {
  const middle = to.x - 24;
  return svg("path", { d: `M${from.x} ${from.y} C${middle} ${from.y} ${middle} ${to.y} ${to.x} ${to.y}` });
}

function label({ data }, here, { x, y }, onpick) {
  const text = data.nodes.map((node) => visible(node.text)).join("");
  const cut = text.length > LETTERS ? `${text.slice(0, LETTERS - 1)}…` : text;
  const last = data.nodes.at(-1);
  const kind = last && here.has(last) ? "is-here" : "";
  return svg("g", { class: kind, onclick: last && (() => onpick(last.id)) },
    svg("circle", { cx: x, cy: y, r: 4 }),
    svg("text", { x: x + 8, y: y - 4 }, last ? cut : "context"),
    last ? svg("text", { class: "share", x: x + 8, y: y + 12 }, chance(logP(data.nodes))) : null);
}

export function listed(branches, onpick) {
  const rows = branches.leaves();
  return region("Branches",
    el("table", { class: "plain num" },
      el("caption", { class: "visually-hidden" }, "All branches"),
      head(["Ends with", "Tokens", "P of all tokens", "ln P for each"]),
      el("tbody", {}, rows.map((leaf) => {
        const path = branches.path(leaf.id);
        const end = path.slice(-6).map((node) => visible(node.text)).join("");
        return el("tr", {},
          el("th", { scope: "row" }, el("button", { type: "button", class: "token",
            "aria-pressed": leaf.id === branches.leaf, onclick: () => onpick(leaf.id) }, end)),
          el("td", {}, integer(path.length)), el("td", {}, chance(logP(path))),
          el("td", {}, fixed(logP(path) / path.length)));
      }))));
}
