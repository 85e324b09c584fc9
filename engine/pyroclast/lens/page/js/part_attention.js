// Part 3: attention of one token over the text, how its state moves, and how positions rotate.

import { asker, patcher } from "./asks.js";
import { el, replace } from "./dom.js";
import { choice, examples, slider, textField } from "./fields.js";
import { movementOf } from "./attention_movement.js";
import { rotationOf } from "./attention_rotation.js";
import { sideOf } from "./attention_side.js";
import { layersThatFit, nearest, tellingHead, tellingKeys, Weights } from "./attention_weights.js";

const RIVER = "She swam across the river to the other bank";
const MONEY = "She took her money to the bank";
// Each sets what it names; the rest goes back to what the page begins with.
const EXAMPLES = {
  "bank and bank": { text_a: RIVER, text_b: MONEY },
  "spring and spring": {
    text_a: "After the long winter came the spring",
    text_b: "The engineer bent the metal into a spring",
    towards: "winter season flowers metal wire machine",
  },
  "who is \u201cit\u201d?": {
    text_a: "The animal did not cross the street because it was too tired",
    text_b: "",
    query_0: 8,
    key_0: 1,
    towards: "animal dog street road",
  },
};
const FRESH = {
  text_a: null,
  text_b: null,
  query_0: null,
  query_1: null,
  key_0: null,
  key_1: null,
  layer: null,
  head: null,
  towards: null,
};
const NAMES = ["text_a", "text_b"];
const N_SPECIAL = 8; // more than any tokenizer adds to a text

let view = null;

export const part = {
  id: "attention",
  title: "Where it looks",
  explain: [
    "To understand a word, the model looks back at the words before it. It is a stack of " +
      "layers, and each layer has several heads that look on their own: a head shares its " +
      "attention out among the words, and mixes what it finds into the word\u2019s own numbers.",
    "So the same word ends up with different numbers in different company: by a river, " +
      "a bank is not where money goes.",
    "Choose a token to see where it looks; it can look only at itself and at what came before.",
  ],
  code: "engine/pyroclast/lens/looks.py",
  ownText: true,

  async open(root, context) {
    view = new AttentionView(root, context);
    await view.refresh();
  },

  async update(change) {
    if (change.has("view") || change.has("model")) await view.refresh();
  },

  close() {
    view?.stop();
    view = null;
  },

  data: () => null,
};

class AttentionView {
  #context;
  #asks;
  #counts;
  #patch;
  #lengths = [0, 0]; // in tokens, or more
  #layers; // the numbers of the layers on the page
  #sides = [null, null]; // {weights, parts} of each text that is not empty
  #tops = [el("div"), el("div")];
  #grids = [el("div"), el("div")];
  #fields;
  #layer;
  #head;
  #movement;
  #rotation;

  constructor(root, context) {
    this.#context = context;
    this.#patch = patcher(context);
    this.#asks = NAMES.map((name, i) =>
      asker(context, "attention", (why) => this.#empty(i, why), name),
    );
    this.#counts = NAMES.map((name, i) =>
      asker(context, "tokens", (why) => this.#empty(i, why), `length of ${name}`),
    );
    this.#layers = layersThatFit(context.meta, 1);
    this.#fields = NAMES.map((name, i) =>
      textField({
        label: i ? "Second text" : "Text",
        value: this.#texts()[i],
        wraps: true,
        onInput: (text) =>
          this.#choose(i, { [name]: text, [`query_${i}`]: null, [`key_${i}`]: null }),
      }),
    );
    this.#layer = slider({
      label: "Layer",
      min: 0,
      max: this.#layers.length - 1,
      value: 0,
      say: (i) => `${this.#layers[i]} (0 to ${context.meta.n_layers - 1})`,
      onInput: (i) => this.#set({ layer: this.#layers[i], head: this.#chosen().head ?? "mean" }),
    });
    this.#head = choice({
      label: "Head",
      onChange: (head) => this.#set({ layer: this.#chosen().layer, head }),
    });
    this.#movement = movementOf(context);
    this.#rotation = rotationOf(context);
    const columns = this.#fields.map((field, i) =>
      el("div", { class: "column" }, field.node, this.#tops[i]),
    );
    root.append(
      examples(
        "Try",
        Object.entries(EXAMPLES).map(([name, example]) => [
          name,
          () => this.#patch({ ...FRESH, ...example }),
        ]),
      ),
      el("div", { class: "controls" }, this.#layer.node, this.#head.node),
      el("div", { class: "sides" }, columns),
      el("div", { class: "sides" }, this.#grids),
      this.#movement.node,
      this.#rotation.node,
    );
  }

  async refresh() {
    const texts = this.#texts();
    await Promise.all(texts.map((text, i) => this.#count(i, text)));
    const layers = layersThatFit(this.#context.meta, Math.max(...this.#lengths));
    const loaded = this.#loadAll(texts, layers);
    // A token that the link names may not be there: its text is read first.
    const isNamed = texts.some((_, i) => number(this.#context.state.view[`query_${i}`]) !== null);
    const moved = isNamed ? loaded.then(() => this.#move(texts)) : this.#move(texts);
    await Promise.all([loaded, moved, this.#rotation.show()]);
  }

  async #loadAll(texts, layers) {
    await Promise.all(texts.map((text, i) => this.#load(i, text, layers)));
    const side = this.#sides.find(Boolean);
    if (!side) return;
    // Of a model that mixes attention with other layers, the answer has those that attend.
    this.#layers = side.weights.layers;
    this.#show();
  }

  stop() {
    this.#sides.forEach((side) => side?.parts.stop());
    this.#movement.stop();
    this.#rotation.stop();
  }

  #texts() {
    const given = this.#context.state.view;
    return [given.text_a ?? RIVER, given.text_b ?? ((given.text_a ?? null) === null ? MONEY : "")];
  }

  // At least as many as there are tokens: of a short text the bytes tell, and nobody is asked.
  async #count(i, text) {
    const atMost = new TextEncoder().encode(text).length + N_SPECIAL;
    const meta = this.#context.meta;
    const isShort = layersThatFit(meta, atMost).length === meta.n_layers;
    if (text.trim() === "" || isShort) {
      this.#lengths[i] = isShort ? atMost : 0;
      this.#counts[i].forget();
      return;
    }
    const answer = await this.#counts[i]({ text });
    if (answer) this.#lengths[i] = answer.pieces.length;
  }

  async #load(i, text, layers) {
    this.#fields[i].set(text);
    if (text.trim() === "") {
      this.#asks[i].forget();
      this.#empty(i, "Write a text to see where its words look.");
      return;
    }
    const some = layers.length < this.#context.meta.n_layers ? { layers } : {};
    const answer = await this.#asks[i]({ text, ...some });
    if (!answer) return;
    this.#sides[i]?.parts.stop();
    const weights = new Weights(answer);
    const parts = sideOf(weights, (patch) => this.#choose(i, renamed(patch, i)));
    this.#sides[i] = { weights, parts };
    replace(this.#tops[i], parts.top);
    replace(this.#grids[i], parts.grids);
  }

  // A side without a text, or with one that the server refuses.
  #empty(i, why) {
    this.#sides[i]?.parts.stop();
    this.#sides[i] = null;
    replace(this.#tops[i], el("p", { class: "faint" }, why));
    replace(this.#grids[i]);
  }

  // Of the head: {layer, head}, as the link says or as the texts suggest; head null is the mean.
  #chosen() {
    const { layer, head } = this.#context.state.view;
    const { nHeads } = this.#sides.find(Boolean).weights;
    if (number(layer) !== null && (head === "mean" || number(head) !== null))
      return {
        layer: nearest(this.#layers, Number(layer)),
        head: head === "mean" ? null : nearest([...Array(nHeads).keys()], Number(head)),
      };
    const asked = ({ weights }, i) => ({ weights, query: this.#query(i), keys: this.#keys(i) });
    return tellingHead(this.#sides.map((side, i) => side && asked(side, i)).filter(Boolean));
  }

  // The tokens that the head to begin with should look at.
  #keys(i) {
    const key = number(this.#context.state.view[`key_${i}`]);
    if (key !== null && key <= this.#query(i)) return [key];
    return tellingKeys(this.#sides[i].weights, this.#query(i), this.#sides[1 - i]?.weights);
  }

  // The token that looks: the text's last, unless one was chosen.
  #query(i) {
    const last = this.#sides[i].weights.n - 1;
    return Math.min(last, number(this.#context.state.view[`query_${i}`]) ?? last);
  }

  #show() {
    const { layer, head } = this.#chosen();
    this.#layer.set(this.#layers.indexOf(layer), this.#layers.length - 1);
    const { nHeads } = this.#sides.find(Boolean).weights;
    const heads = Array.from({ length: nHeads }, (_, i) => [String(i), `head ${i}`]);
    this.#head.fill([["mean", "mean of all heads"], ...heads], String(head ?? "mean"));
    this.#sides.forEach((side, i) => {
      if (!side) return;
      const query = this.#query(i);
      const { weights } = side;
      const key = weights.strongest(weights.layers.indexOf(layer), head ?? 0, query, this.#keys(i));
      side.parts.show({ layer, head, query, key });
    });
  }

  async #move(texts) {
    const isNamed = (i) => number(this.#context.state.view[`query_${i}`]) !== null;
    const index = (i) => (this.#sides[i] && isNamed(i) ? this.#query(i) : -1);
    const points = texts.map((text, i) => text.trim() !== "" && { text, index: index(i) });
    await this.#movement.show(points);
  }

  // What needs no answer of the server is drawn at once; `refresh` follows with the rest.
  #set(patch) {
    this.#patch(patch);
    if (this.#sides.some(Boolean)) this.#show();
  }

  #choose(i, patch) {
    const { layer, head } = this.#sides.some(Boolean) ? this.#chosen() : {};
    // A new text may suggest another head, a new token may not: the head on the page stays.
    const [text_a, text_b] = this.#texts();
    if (NAMES[i] in patch) this.#patch({ text_a, text_b, ...patch });
    else this.#set({ layer, head: head ?? "mean", ...patch });
  }
}

// {query, key} of side i, as they are named in the link.
function renamed(patch, i) {
  return Object.fromEntries(
    Object.entries(patch).map(([name, value]) => [
      name === "query" || name === "key" ? `${name}_${i}` : name,
      value,
    ]),
  );
}

function number(given) {
  return given === null || given === undefined || given === "" ? null : Number(given);
}
