// How the state of a token moves towards its context: cosines to chosen words, layer by layer.

import { asker, patcher } from "./asks.js";
import { el, replace, spoken } from "./dom.js";
import { section, slider, textField } from "./fields.js";
import { fixed } from "./format.js";
import { lineChart } from "./chart_lines.js";
import { responsive } from "./scales.js";

const WORDS = "river water shore money loan finance";

/** {node, show(points), stop()}; a point is {text, index}, the index -1 for the text's last token,
 * or false where a text is empty. */
export function movementOf(context) {
  const ask = asker(context, "movement", (why) => replace(title, why));
  const patch = patcher(context);
  const words = () => context.state.view.towards ?? WORDS;
  const list = textField({
    label: "Words to compare with",
    value: words(),
    onInput: (text) => patch({ towards: text.trim() }),
  });
  const box = el("div", { class: "lines-box" });
  const table = el("div", {
    class: "scroll tall",
    tabIndex: 0,
    role: "region",
    "aria-label": "Cosines",
  });
  const title = el("p", { class: "reading" });
  const sliderBox = el("div", { class: "controls" });
  let shown = null;
  let at = 0;
  const chart = responsive(
    box,
    (width) =>
      shown &&
      lineChart({
        width,
        xs: shown.steps,
        xLabel: "layers passed",
        marker: at,
        series: shown.series,
        format: (value) => fixed(value, 2),
      }),
  );
  const node = section(
    "How a word takes in its context",
    "Every layer adds something to the numbers of the word. The cosine says how near " +
      "they are to the place of another word. Cosines to single words are small, because " +
      "the numbers hold far more than one word; what counts is that they move apart.",
    el("div", { class: "controls" }, list.node),
    title,
    box,
    sliderBox,
    table,
  );

  async function show(points) {
    list.set(words());
    const [a, b] = points;
    const asked = words()
      .split(/[\s,]+/)
      .filter(Boolean);
    if (!a || !asked.length) return;
    const answer = await ask({ a, b: b || a, words: asked });
    if (!answer) return;
    shown = seriesOf(answer.cosines, asked, Boolean(b));
    at = shown.steps.length - 1;
    replace(title, told(answer.tokens, Boolean(b)));
    replace(
      sliderBox,
      slider({
        label: "Layers passed",
        min: 0,
        max: at,
        value: at,
        onInput: (layer) => {
          at = layer;
          draw();
        },
      }).node,
    );
    draw();
  }

  function draw() {
    chart.draw();
    replace(table, tableOf(shown, at));
  }

  return { node, show, stop: chart.stop };
}

// With two texts the lines are differences: above zero is nearer in the first text.
function seriesOf([a, b], words, isPair) {
  const steps = a.map((_, i) => i);
  const series = words.map((word, j) => ({
    name: word,
    style: j % 6,
    values: a.map((row, i) => row[j] - (isPair ? b[i][j] : 0)),
  }));
  return { steps, series, a, b: isPair ? b : null };
}

function told([a, b], isPair) {
  const name = `\u201c${spoken(a.text)}\u201d`;
  if (!isPair) return `The cosine of ${name} to each word after each layer.`;
  const other = `\u201c${spoken(b.text)}\u201d`;
  return (
    `Each line is a difference of two cosines. Above zero, ${name} of the first text is nearer ` +
    `to the word; below zero, ${other} of the second is.`
  );
}

function tableOf({ series, a, b }, at) {
  const heads = b ? ["Word", "First text", "Second text", "Difference"] : ["Word", "Cosine"];
  return el(
    "table",
    { class: "plain" },
    el("caption", { class: "visually-hidden" }, `Cosines after ${at} layers`),
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
      series.map((line, j) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, line.name),
          el("td", { class: "num" }, fixed(a[at][j], 3)),
          b ? el("td", { class: "num" }, fixed(b[at][j], 3)) : null,
          b ? el("td", { class: "num" }, fixed(line.values[at], 3)) : null,
        ),
      ),
    ),
  );
}
