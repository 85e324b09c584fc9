// Part 9: one step of the model, op by op, and what spared work: cache, drafts, a grammar.

import { patcher } from "./asks.js";
import { figures } from "./charts.js";
import { el, replace, visible } from "./dom.js";
import { choice } from "./fields.js";
import { integer, percent } from "./format.js";
import { micros, opsTable, size } from "./hood_ops.js";

const GRAMMARS = {
  none: ["no grammar", null],
  choice: ["yes or no", { choice: ["yes", "no"] }],
  date: ["a date in 2026", { regex: "2026-[0-9]{2}-[0-9]{2}" }],
  person: [
    "JSON with a name and an age",
    {
      json: {
        type: "object",
        properties: { name: { type: "string" }, age: { type: "integer" } },
        required: ["name", "age"],
        additionalProperties: false,
      },
    },
  ],
};
// A view takes dozens of steps of the model: not after every letter.
const PAUSE_MS = 400;

let context, numbers, told, table, mask, timer;

export const part = {
  id: "hood",
  title: "Under the hood",
  explain: [
    "One token takes one step through all layers, and a step is a list of operations.",
    "Most of its time goes into reading the model\u2019s weights from memory, so no step can be " +
      "faster than the memory.",
    "The share says how near each operation comes to the speed of memory, measured just now.",
  ],
  code: "engine/pyroclast/lens/ops.py",

  async open(root, given) {
    context = given;
    const patch = patcher(context);
    numbers = el("div");
    told = el("p", { class: "reading", role: "status" }, "Running a few steps\u2026");
    mask = el("div");
    table = el("div", {
      class: "scroll tall",
      tabIndex: 0,
      role: "region",
      "aria-label": "Operations",
    });
    const grammar = choice({
      label: "Grammar for the answer",
      value: context.state.view.grammar ?? "none",
      options: Object.entries(GRAMMARS).map(([name, [text]]) => [name, text]),
      onChange: (name) => patch({ grammar: name === "none" ? null : name }),
    });
    root.append(el("div", { class: "controls" }, grammar.node), mask, numbers, told, table);
    await show();
  },

  update(change) {
    if (!["text", "messages", "token_ids", "model", "view"].some((name) => change.has(name)))
      return undefined;
    clearTimeout(timer);
    return new Promise((resolve, reject) => {
      timer = setTimeout(() => show().then(resolve, reject), PAUSE_MS);
    });
  },

  close() {
    clearTimeout(timer);
  },

  data: () => null,
};

async function show() {
  const structured = GRAMMARS[context.state.view.grammar ?? "none"]?.[1];
  const more = structured ? { params: { structured } } : {};
  const answer = await context.ask("hood", more).catch((error) => {
    replace(told);
    throw error;
  });
  if (!answer) return;
  replace(numbers, figures(cards(answer)));
  replace(told, story(answer));
  replace(mask, answer.grammar && maskTold(answer.grammar));
  replace(table, opsTable(answer.ops));
}

function cards({ ops, step_us, n_threads, read_gb_s, timings }) {
  const bytes = ops.reduce((sum, op) => sum + op.n_bytes, 0);
  const limit = read_gb_s === null ? "" : `this machine\u2019s memory: ${size(read_gb_s * 1e9)}/s`;
  return [
    {
      title: "One step",
      value: micros(step_us),
      note: `${integer(Math.round(1e6 / step_us))} a second, threads: ${n_threads}`,
    },
    { title: "Weights and cache read", value: size(bytes), note: limit },
    {
      title: "Of the text, from the cache",
      value: `${integer(timings.n_cached_tokens)} of ${integer(timings.n_prompt_tokens)}`,
      note: "tokens that were not computed again",
    },
    {
      title: "Of the answer, drafted and right",
      value: timings.n_drafted_tokens
        ? `${integer(timings.n_accepted_tokens)} of ${integer(timings.n_drafted_tokens)}`
        : "none",
      note: "drafts copy what the text says twice",
    },
  ];
}

function story({ ops, step_us }) {
  const most = `${percent(ops[0].time_us / step_us)} of the time goes to \u201c${ops[0].op}\u201d.`;
  const named = `${most} The ending of a name says how its numbers are stored.`;
  return ops.some((op) => op.share > 1)
    ? `${named} A share above 100 % means that weights still lay in the processor\u2019s own cache.`
    : named;
}

function maskTold({ n_forbidden, forced }) {
  const nAllowed = context.meta.vocab_size - n_forbidden;
  const end = forced.length
    ? [
        "It leaves no choice about what comes next: ",
        el("span", { class: "token" }, visible(forced.map((each) => each.text).join(""))),
      ]
    : "The model chooses among those that are allowed.";
  return el(
    "p",
    { class: "notice" },
    `The grammar forbids ${integer(n_forbidden)} tokens here and allows ${integer(nAllowed)}. `,
    end,
  );
}
