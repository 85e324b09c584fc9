// The operations of one step as a table, and quantities in their units.

import { el } from "./dom.js";
import { fixed, percent } from "./format.js";

// What the operations of most models do, for those who know only what the other parts tell.
const WORDS = {
  embed: "looks up the numbers of the token",
  norm: "brings the numbers to one size",
  matmul: "multiplies by weights",
  gate_up: "multiplies by the feed-forward weights",
  glu: "keeps some numbers, mutes others",
  quantize: "rounds numbers to 8 bits",
  rope: "rotates by position",
  rope_table: "prepares the angles",
  attention: "looks back at earlier tokens",
  residual: "adds to the state",
  sample: "picks the token",
  route: "chooses experts",
};
const HEADS = ["Operation", "Time", "Share of the limit", "Bytes", "Kernel"];

/** ops: [{op, variant, n_calls, time_us, n_bytes, share}], slowest first. */
export function opsTable(ops) {
  const most = ops[0].time_us;
  return el(
    "table",
    { class: "plain ops" },
    el("caption", { class: "visually-hidden" }, "The operations of one step, slowest first"),
    el("thead", {}, el("tr", {}, HEADS.map(heading))),
    el(
      "tbody",
      {},
      ops.map((op) => row(op, most)),
    ),
  );
}

function heading(text) {
  return el("th", { scope: "col" }, text);
}

function row({ op, variant, n_calls, time_us, n_bytes, share }, most) {
  const width = `${(100 * time_us) / most}%`;
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      op,
      el("span", { class: "op-words faint" }, WORDS[op.split(".")[0]] ?? ""),
    ),
    el(
      "td",
      { class: "added" },
      el(
        "span",
        { class: "bar-track", "aria-hidden": true },
        el("span", { class: "bar", style: { width } }),
      ),
      el("span", { class: "num" }, micros(time_us)),
      el("span", { class: "num faint" }, n_calls > 1 ? ` in ${n_calls} calls` : ""),
    ),
    el("td", { class: "num" }, share === null ? "\u2013" : percent(share)),
    el("td", { class: "num" }, n_bytes === null ? "\u2013" : size(n_bytes)),
    el("td", {}, el("code", {}, variant)),
  );
}

/** 4.21 ms, 310 µs. */
export function micros(us) {
  return us >= 1000 ? `${fixed(us / 1000, 2)} ms` : `${fixed(us, us < 10 ? 1 : 0)} \u00b5s`;
}

/** 94.0 MB, 300 kB. */
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  let n = bytes;
  while (n >= 1000 && at < units.length - 1) {
    n /= 1000;
    at += 1;
  }
  const digits = at === 0 || n >= 100 ? 0 : n < 10 ? 2 : 1;
  return `${fixed(n, digits)} ${units[at]}`;
}
