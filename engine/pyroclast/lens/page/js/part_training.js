// Part 10: a run of `pyroclast train`: its loss, what it wrote, and what it predicts by step.

import { asker, patcher } from "./asks.js";
import { bars } from "./charts.js";
import { lineChart } from "./chart_lines.js";
import { el, replace } from "./dom.js";
import { choice, section, slider, textField } from "./fields.js";
import { fixed, integer } from "./format.js";
import { responsive } from "./scales.js";

const BEGIN = "Once upon a time";

let view = null;

export const part = {
  id: "training",
  title: "Training in a picture",
  explain: [
    "Training shows the model a text, looks at the probability that it gave to each next token, " +
      "and moves all its numbers a little so that the right token becomes more likely.",
    "The loss is how surprised it was: the lower, the better it predicts.",
    "Move the slider to see what the model predicted after so many steps.",
  ],
  code: "engine/pyroclast/lens/runs.py",
  ownText: true,

  async open(root, context) {
    const runs = context.meta.training ?? [];
    if (!runs.length) {
      root.append(nothing());
      return;
    }
    view = new TrainingView(root, context, runs);
    await view.show();
  },

  async update(change) {
    if (change.has("view")) await view?.show();
  },

  close() {
    view?.stop();
    view = null;
  },

  data: () => null,
};

function nothing() {
  return el(
    "div",
    { class: "card stack" },
    el("p", {}, "This server knows no training run."),
    el(
      "p",
      {},
      el("code", {}, "pyroclast train pretrain"),
      " writes one into a folder, and ",
      el("code", {}, "pyroclast look --training FOLDER"),
      " shows it here.",
    ),
  );
}

class TrainingView {
  #context;
  #runs;
  #run;
  #begin;
  #curve; // the answer about the run
  #learning = null; // P(next) at its checkpoints
  #at = 0; // the number of the checkpoint
  #told = el("p", { class: "reading", role: "status" });
  #sliderBox = el("div", { class: "controls" });
  #next = el("div");
  #wrote = el("div");
  #chart;
  #ask;
  #learn;

  constructor(root, context, runs) {
    this.#context = context;
    this.#runs = runs;
    this.#ask = asker(context, "training", (why) => replace(this.#told, why));
    this.#learn = asker(context, "training", (why) => replace(this.#next, why), "learning");
    const patch = patcher(context);
    const options = runs.map((each) => [each, each]);
    this.#run = choice({ label: "Run", options, onChange: (run) => patch({ run }) });
    this.#begin = textField({
      label: "Text to continue",
      value: this.#text(),
      onInput: (begin) => patch({ begin }),
    });
    const box = el("div");
    this.#chart = responsive(box, (width) => this.#drawn(width));
    root.append(
      el("div", { class: "controls" }, this.#run.node),
      this.#told,
      box,
      this.#sliderBox,
      section(
        "What it predicts",
        "The tokens that the last checkpoint finds most likely, and what the chosen one " +
          "thinks of them.",
        el("div", { class: "controls" }, this.#begin.node),
        this.#next,
      ),
      section("What it wrote", "A sample that was kept during the training.", this.#wrote),
    );
  }

  async show() {
    const run = this.#runs.find((each) => each === this.#context.state.view.run) ?? this.#runs[0];
    this.#run.set(run);
    this.#begin.set(this.#text());
    const curve = await this.#ask({ run });
    if (curve) {
      this.#curve = curve;
      this.#learning = null;
      this.#at = 0;
      replace(
        this.#told,
        curve.loss.length ? story(curve) : "This run has not written a step yet.",
      );
      this.#draw();
    }
    if (!this.#curve?.checkpoints.length || !this.#text()) return;
    const answer = await this.#learn({ run, text: this.#text() });
    if (!answer) return;
    this.#learning = answer.learning;
    this.#at = this.#learning.steps.length - 1;
    replace(this.#sliderBox, this.#slider());
    this.#draw();
  }

  stop() {
    this.#chart.stop();
  }

  #text() {
    return this.#context.state.view.begin ?? BEGIN;
  }

  // The step that the page is about: that of the chosen checkpoint, else the last.
  #step() {
    return this.#learning ? this.#learning.steps[this.#at] : this.#curve.steps.at(-1);
  }

  #slider() {
    const { steps } = this.#learning;
    return slider({
      label: "Checkpoint",
      min: 0,
      max: steps.length - 1,
      value: this.#at,
      say: (i) => `step ${integer(steps[i])}`,
      onInput: (i) => {
        this.#at = i;
        this.#draw();
      },
    }).node;
  }

  #drawn(width) {
    if (!this.#curve?.loss.length) return null;
    const { steps, loss } = this.#curve;
    return lineChart({
      width,
      xs: steps,
      xLabel: "steps",
      marker: Math.max(
        0,
        steps.findLastIndex((each) => each <= this.#step()),
      ),
      series: [{ name: "loss", style: 0, values: loss }],
      format: (value) => fixed(value, 1),
    });
  }

  #draw() {
    this.#chart.draw();
    const { samples, checkpoints } = this.#curve;
    const sample = samples.findLast((each) => each.step <= this.#step()) ?? samples[0];
    replace(
      this.#wrote,
      sample
        ? el(
            "blockquote",
            { class: "sample" },
            el("p", {}, sample.text),
            el("p", { class: "faint" }, `after ${integer(sample.step)} steps`),
          )
        : el("p", { class: "faint" }, "This run kept no samples."),
    );
    if (this.#learning) replace(this.#next, this.#bars());
    else
      replace(
        this.#next,
        el(
          "p",
          { class: "faint" },
          checkpoints.length
            ? "Loading the checkpoints one after the other\u2026"
            : "This run has no checkpoints yet.",
        ),
      );
  }

  #bars() {
    const { tokens, p, steps } = this.#learning;
    const rows = tokens.map((token, i) => ({ ...token, p: p[this.#at][i] }));
    return bars(rows, { caption: `Next token after ${steps[this.#at]} steps`, maximum: 1 });
  }
}

function story({ steps, loss }) {
  return (
    `${integer(steps.at(-1))} steps: the loss went from ${fixed(loss[0], 2)} to ` +
    `${fixed(loss.at(-1), 2)}. At first the model was as unsure as a fair choice among ` +
    `${sides(loss[0])} tokens; at the end, among ${sides(loss.at(-1))}.`
  );
}

// A loss in nats is the logarithm of the number of equal sides.
function sides(loss) {
  const n = Math.exp(loss);
  return n < 100 ? fixed(n, 1) : integer(Math.round(n));
}
