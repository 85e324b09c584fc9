// Part 4: what the model would say after each layer, and what each part of a layer added.

import { el, replace, spoken, visible } from "./dom.js";
import { fixed, percent } from "./format.js";
import { tokenRow } from "./token_row.js";

const N_TOP = 4;
const ORDER = ["1st choice", "2nd", "3rd", "4th"];

let context, tokens, told, table;

export const part = {
  id: "layers",
  title: "Layer by layer",
  explain: [
    "The text climbs through the layers, and each layer adds to the numbers of every token.",
    "Each row shows what the model would say next if it stopped after that layer.",
    "Early rows make little sense, because only the last layer was trained to answer.",
  ],
  code: "engine/pyroclast/lens/depth.py",

  async open(root, given) {
    context = given;
    tokens = tokenRow((position) => context.onChange({ position }));
    told = el("p", { class: "reading", role: "status" });
    table = el("div", {
      class: "scroll tall",
      tabIndex: 0,
      role: "region",
      "aria-label": "Layers",
    });
    root.append(
      el(
        "div",
        { class: "stack" },
        el(
          "p",
          { class: "faint" },
          "Choose a token: the table shows what the model expects after it.",
        ),
        tokens.node,
        told,
        el(
          "p",
          { class: "faint words" },
          "Equal sides: the choice is as open as a fair die with so many sides. A layer adds " +
            "twice: attention brings in the words before, the feed-forward part works on each " +
            "token alone. Their bars show how much was added, the small number how far that " +
            "moved the logit, which is the score behind the probability, of the final answer.",
        ),
        table,
      ),
    );
    await show();
  },

  async update(change) {
    if (["text", "messages", "token_ids", "model", "position"].some((name) => change.has(name)))
      await show();
  },

  close() {},
  data: () => null,
};

async function show() {
  const { position } = context.state;
  const written = await context.ask("tokens");
  if (!written) return;
  if (!written.pieces.length) {
    tokens.show([], null);
    replace(told, "Write a few words to see how they are continued.");
    replace(table);
    return;
  }
  const place = position === null ? {} : { position };
  const answer = await context.ask("layers", { ...place, k: N_TOP });
  if (!answer) return;
  const { rows } = answer;
  tokens.show(written.pieces, answer.position);
  replace(told, story(rows));
  replace(table, layersTable(rows));
}

// Where the final answer first leads and keeps its lead.
function story(rows) {
  const final = rows.at(-1).top[0];
  const since = rows.findLastIndex((row) => row.top[0].id !== final.id) + 1;
  const first = rows[since];
  const name = `\u201c${spoken(final.text)}\u201d`;
  return since === rows.length - 1
    ? `${name} leads only after the last layer, with ${percent(final.p)}.`
    : `${name} leads from ${placeOf(first)} on, first with ${percent(first.top[0].p)}, ` +
        `at the end with ` +
        `${percent(final.p)}.`;
}

function placeOf(row) {
  return row.layer < 0 ? "the start" : `layer ${row.layer}`;
}

function layersTable(rows) {
  const final = rows.at(-1).top[0].id;
  const most = (name) => Math.max(...rows.map((row) => row[name]));
  const largest = Math.max(most("norm_attention"), most("norm_feed_forward"));
  const heads = ["Layer", ...ORDER, "Equal sides", "Attention", "Feed-forward"];
  return el(
    "table",
    { class: "plain layers" },
    el("caption", { class: "visually-hidden" }, "The most likely tokens after each layer"),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        heads.map((head) => el("th", { scope: "col" }, head)),
      ),
    ),
    el(
      "tbody",
      {},
      rows.map((row) =>
        el(
          "tr",
          { "data-layer": String(row.layer) },
          el("th", { scope: "row", class: "num" }, row.layer < 0 ? "start" : row.layer),
          row.top.map((each) => guess(each, each.id === final)),
          el("td", { class: "num" }, fixed(Math.exp(row.entropy), 1)),
          added(row, "attention", largest),
          added(row, "feed_forward", largest),
        ),
      ),
    ),
  );
}

function guess(each, isFinal) {
  return el(
    "td",
    {
      class: isFinal ? "guess tinted is-final" : "guess tinted",
      style: { "--tint": `${Math.round(55 * each.p)}%` },
    },
    el("span", { class: "token" }, visible(each.text)),
    " ",
    el("span", { class: "num share" }, percent(each.p)),
  );
}

// How long the added numbers are, and what they did to the logit of the final answer.
function added(row, name, largest) {
  if (row.layer < 0) return el("td", { class: "faint" }, "\u2013");
  const [norm, effect] = [row[`norm_${name}`], row[`effect_${name}`]];
  return el(
    "td",
    { class: "added" },
    el(
      "span",
      { class: "bar-track", "aria-hidden": true },
      el("span", { class: "bar", style: { width: `${(100 * norm) / largest}%` } }),
    ),
    el("span", { class: "num" }, fixed(norm, 1)),
    el("span", { class: "num faint" }, `${effect < 0 ? "" : "+"}${fixed(effect, 2)}`),
  );
}
