// Sentence vectors, and how alike sentences are.

import { asker } from "./asks.js";
import { el, replace } from "./dom.js";
import { section, textField } from "./fields.js";
import { fixed } from "./format.js";

// Where even unlike sentences have a higher cosine than this, the numbers need a word.
const CROWDED = 0.7;
const SENTENCES = [
  "A cat sleeps on the sofa.",
  "The kitten is napping on a cushion.",
  "Share prices fell sharply today.",
  "The stock market dropped this morning.",
  "She swam across the river.",
].join("\n");

/** {node, show()} */
export function sentencesOf(context, patch) {
  const given = () => context.state.view.sentences ?? SENTENCES;
  const field = textField({
    label: "Sentences, one a line",
    value: given(),
    rows: 5,
    onInput: (text) => patch({ sentences: text }),
  });
  const table = el("div", {
    class: "scroll",
    tabIndex: 0,
    role: "region",
    "aria-label": "Similarity of the sentences",
  });
  const ask = asker(context, "sentences", (why) => {
    replace(told, why);
    replace(table);
  });
  const told = el("p", { class: "reading", role: "status" });
  const node = section(
    "Whole sentences",
    "A sentence has a place too: the mean of its tokens\u2019 states after the last " +
      "layer. The table shows the cosine of each pair.",
    field.node,
    table,
    told,
  );

  async function show() {
    field.set(given());
    if (!context.meta.can_embed) {
      replace(
        told,
        "This server was started without embeddings, so it has no vectors of sentences.",
      );
      return;
    }
    const texts = given()
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean);
    if (texts.length < 2) {
      replace(told, "Write two sentences or more.");
      return;
    }
    const answer = await ask({ texts });
    if (!answer) return;
    replace(table, similarities(texts, answer.similarity));
    replace(told, closest(texts, answer.similarity));
  }

  return { node, show };
}

function pairsOf(similarity) {
  return similarity.flatMap((row, i) => row.slice(0, i).map((value, j) => ({ i, j, value })));
}

function closest(texts, similarity) {
  const pairs = pairsOf(similarity);
  const { i, j, value } = pairs.reduce((a, b) => (b.value > a.value ? b : a));
  const crowded = pairs.every((pair) => pair.value > CROWDED)
    ? " All values are high, as they are where a model was trained to continue text and not " +
      "to compare " +
      "it: look at which pairs are higher than the others."
    : "";
  return `Closest are sentences ${j + 1} and ${i + 1}: cosine ${fixed(value, 3)}.${crowded}`;
}

// The tint spans the values of this table: all of them may be high.
function similarities(texts, similarity) {
  const values = pairsOf(similarity).map((pair) => pair.value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const tint = (value) => (high > low ? Math.min(1, (value - low) / (high - low)) : 0);
  return el(
    "table",
    { class: "plain similar" },
    el("caption", { class: "visually-hidden" }, "Cosine of each pair of sentences"),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("td", {}),
        texts.map((_, i) => el("th", { scope: "col", class: "num" }, i + 1)),
      ),
    ),
    el(
      "tbody",
      {},
      texts.map((text, i) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, `${i + 1}  ${text}`),
          similarity[i].map((value, j) =>
            el(
              "td",
              {
                class: i === j ? "num faint" : "num tinted",
                style: {
                  "--tint": i === j ? "0%" : `${Math.round(45 * tint(value))}%`,
                },
              },
              fixed(value, 3),
            ),
          ),
        ),
      ),
    ),
  );
}
