// The logits after a context, and the texts of tokens, which come as they are needed.

import { floats, NO_SERVER } from "./api.js";
import { orderOf, probabilities } from "./sampler.js";
import { lazy } from "./lazy.js";

// {token_ids, logits, p, order, rank(id), top, entropy, ...} of an answer to `next`.
export function distribution(answer) {
  const logits = floats(answer.logits_b64);
  const ranks = lazy(() => {
    const found = new Uint32Array(logits.length);
    orderOf(logits).forEach((id, i) => { found[id] = i + 1; });
    return found;
  });
  return {
    ...answer, logits, p: probabilities(logits),
    get order() { return orderOf(logits); },
    rank: (id) => ranks()[id],
  };
}

// Texts by id.  `learn` takes what an answer holds; `fetch` asks for those that are missing.
export class Texts {
  #known = new Map();

  constructor(context) {
    this.context = context;
  }

  learn(rows) {
    for (const row of rows) this.#known.set(row.id, row.text);
  }

  of(id) {
    return this.#known.get(id) ?? `#${id}`;
  }

  // Whether new ones came.  A saved page knows those of its own view; others stay numbers.
  // as: a name for asks that shall not overtake each other.
  async fetch(ids, as = "pieces") {
    const missing = [...new Set(ids)].filter((id) => !this.#known.has(id)).slice(0, 1000);
    if (!missing.length) return false;
    try {
      const answer = await this.context.ask("pieces", { ids: missing }, { context: false, as });
      if (answer) this.learn(answer.pieces);
      return Boolean(answer);
    } catch (error) {
      if (error.status !== NO_SERVER) throw error;
      return false;
    }
  }
}
