// Sums with words: what lies nearest to a - b + c.

import { asker } from "./asks.js";
import { cosineTable } from "./cosine_table.js";
import { el, replace } from "./dom.js";
import { examples, section, textField } from "./fields.js";
import { integer } from "./format.js";

const N_ANALOGY = 8;
const ANALOGY = ["king", "man", "woman", "queen"];
const ANALOGIES = [
  ANALOGY,
  ["Berlin", "Germany", "France", "Paris"],
  ["bigger", "big", "small", "smaller"],
  ["cats", "cat", "dog", "dogs"],
  ["Paris", "France", "Italy", "Rome"],
];

/** {node, show()} */
export function analogyOf(context, patch) {
  const names = ["plus_a", "minus_b", "plus_c", "expected"];
  const labels = ["", "minus", "plus", "should give"];
  const words = () => names.map((name, i) => context.state.view[name] ?? ANALOGY[i]);
  const fields = names.map((name, i) =>
    textField({
      label: labels[i] || "Take",
      value: words()[i],
      onInput: (text) => patch({ [name]: text.trim() }),
    }),
  );
  const sentence = el("p", { class: "reading", role: "status" });
  const table = el("div");
  const ask = asker(context, "analogy", (why) => {
    replace(sentence, why);
    replace(table);
  });
  const node = section(
    "Sums with words",
    "If directions carry meaning, one can add them: king without man, with woman, " +
      "should lead to queen. Often it does; often it does not. The rank says how far the " +
      "expected word is down the list of all tokens.",
    examples(
      "Try",
      ANALOGIES.map((four) => [
        `${four[0]} \u2212 ${four[1]} + ${four[2]}`,
        () => patch(Object.fromEntries(four.map((word, i) => [names[i], word]))),
      ]),
    ),
    el(
      "div",
      { class: "four" },
      fields.map((field) => field.node),
    ),
    sentence,
    table,
  );

  async function show() {
    const four = words();
    fields.forEach((field, i) => field.set(four[i]));
    if (four.slice(0, 3).some((word) => !word)) return;
    const [a, b, c, expected] = four;
    const body = { a, b, c, k: N_ANALOGY, ...(expected ? { expected } : {}) };
    const answer = await ask(body);
    if (!answer) return;
    const title = `Nearest to ${four[0]} \u2212 ${four[1]} + ${four[2]}`;
    replace(sentence, expected ? rankTold(expected, answer.rank, context.meta.vocab_size) : "");
    replace(table, cosineTable(title, answer.rows, { marked: expected }));
  }

  return { node, show };
}

function rankTold(word, rank, nTokens) {
  const of = `of ${integer(nTokens)} tokens`;
  return rank === 1
    ? `\u201c${word}\u201d is the nearest ${of}.`
    : `\u201c${word}\u201d is number ${integer(rank)} ${of}: here the sum ${
        rank <= 10 ? "comes close" : "does not hold"
      }.`;
}
