// Attention probabilities of one text: the answer of /look/api/attention as arrays.

import { floats } from "./api.js";

/** Row q of head h of layer l begins at ((l * nHeads + h) * n + q) * n; layers by their place in
 * `layers`. */
export class Weights {
  constructor(answer) {
    this.pieces = answer.pieces;
    this.layers = answer.layers;
    this.n = answer.pieces.length;
    this.values = floats(answer.weights_b64);
    this.nHeads = this.values.length / (this.layers.length * this.n * this.n);
  }

  /** What token `query` gives to token `key` in one head. */
  at(column, head, query, key) {
    return this.values[((column * this.nHeads + head) * this.n + query) * this.n + key];
  }

  /** All rows (n * n) of one head, or of the mean over the layer's heads where head is null. */
  matrix(layer, head) {
    const size = this.n * this.n;
    const first = this.layers.indexOf(layer) * this.nHeads * size;
    if (head !== null) return this.values.subarray(first + head * size, first + (head + 1) * size);
    const mean = new Float32Array(size);
    for (let i = 0; i < this.nHeads * size; i += 1)
      mean[i % size] += this.values[first + i] / this.nHeads;
    return mean;
  }

  /** The heads that give most to `key`: [{layer, head, weight}], best first. */
  heads(query, key) {
    const found = this.layers.flatMap((layer, column) =>
      Array.from({ length: this.nHeads }, (_, head) => ({
        layer,
        head,
        weight: this.at(column, head, query, key),
      })),
    );
    return found.sort((a, b) => b.weight - a.weight);
  }

  /** Of `keys`, the one to which a head gives most. */
  strongest(column, head, query, keys) {
    const weight = (key) => this.at(column, head, query, key);
    return keys.reduce((best, key) => (weight(key) > weight(best) ? key : best));
  }
}

/** The tokens that say something about a head: not the first, where heads rest that find nothing,
 * nor the query and the token before it, at which some heads look in every text.  Of two texts,
 * tokens that only one has tell more. */
export function tellingKeys(weights, query, other) {
  const keys = Array.from({ length: Math.max(0, query - 2) }, (_, i) => i + 1);
  const shared = new Set(other?.pieces.map((piece) => piece.id));
  const own = keys.filter((key) => !shared.has(weights.pieces[key].id));
  return [own, keys, [0]].find((some) => some.length);
}

/** The head to begin with: the one that looks hardest at one telling token in every text.
 * sides: [{weights, query, keys}]. */
export function tellingHead(sides) {
  const { layers, nHeads } = sides[0].weights;
  let best = { layer: layers[0], head: 0, total: -1 };
  layers.forEach((layer, column) => {
    for (let head = 0; head < nHeads; head += 1) {
      const most = ({ weights, query, keys }) =>
        weights.at(column, head, query, weights.strongest(column, head, query, keys));
      const total = sides.reduce((sum, side) => sum + most(side), 0);
      if (total > best.total) best = { layer, head, total };
    }
  });
  return best;
}

/** Of a long text, as many layers as one answer can hold, from the first to the last. */
export function layersThatFit({ n_layers, n_heads, max_bytes_attention }, nTokens) {
  const fitting = Math.floor(max_bytes_attention / (4 * n_heads * nTokens ** 2));
  const n = Math.max(1, Math.min(n_layers, fitting));
  const step = n > 1 ? (n_layers - 1) / (n - 1) : 0;
  return Array.from({ length: n }, (_, i) => Math.round(i * step));
}

/** Of some numbers, the nearest to one. */
export function nearest(numbers, wanted) {
  return numbers.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
}
