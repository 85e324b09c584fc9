// Part 2: embeddings as places: neighbours, sums with words, a map, and whole sentences.

import { patcher } from "./asks.js";
import { el } from "./dom.js";
import { mapOf } from "./meaning_map.js";
import { analogyOf } from "./meaning_analogy.js";
import { neighboursOf } from "./meaning_neighbours.js";
import { sentencesOf } from "./meaning_sentences.js";

let pieces = [];

export const part = {
  id: "meaning",
  title: "Meaning as place",
  explain: [
    "The model gives each token a place in a space of hundreds of directions, learned " +
      "from text alone: tokens that appear in similar company end up near each other.",
    "These are the places before the model has read any context, so \u201cbank\u201d " +
      "still stands between the river and the money.",
  ],
  code: "engine/pyroclast/lens/places.py",
  ownText: true,

  async open(root, context) {
    const patch = patcher(context);
    pieces = [neighboursOf, analogyOf, mapOf, sentencesOf].map((make) => make(context, patch));
    root.append(
      el(
        "div",
        { class: "columns" },
        pieces.slice(0, 2).map((piece) => piece.node),
      ),
      ...pieces.slice(2).map((piece) => piece.node),
    );
    await Promise.all(pieces.map((piece) => piece.show()));
  },

  async update(change) {
    if (change.has("view") || change.has("model"))
      await Promise.all(pieces.map((piece) => piece.show()));
  },

  close() {
    pieces.forEach((piece) => piece.stop?.());
    pieces = [];
  },

  data: () => null,
};
