// Texts that share their beginnings, as a tree of tokens.

// Node: {id, parent, token, text, p, rank, entropy, top, forced}; the root has neither token nor
// parent.  Plain data, so that a page can be saved with it.
export class Branches {
  constructor(saved = null) {
    this.nodes = saved?.nodes ?? [{ id: 0, parent: null }];
    this.leaf = saved?.leaf ?? 0;
  }

  data() {
    return { nodes: this.nodes, leaf: this.leaf };
  }

  // The nodes from the first token to `id`.
  path(id = this.leaf) {
    const found = [];
    for (let node = this.nodes[id]; node.parent !== null; node = this.nodes[node.parent])
      found.unshift(node);
    return found;
  }

  children(id) {
    return this.nodes.filter((node) => node.parent === id);
  }

  // Goes on from `parent` with a token, which may be there already, and stands on it.
  add(parent, step) {
    const known = this.children(parent).find((node) => node.token === step.id);
    if (known) {
      this.leaf = known.id;
      return known;
    }
    const { id: token, text, p, rank, entropy, top, forced = false } = step;
    const node = { id: this.nodes.length, parent, token, text, p, rank, entropy, top, forced };
    this.nodes.push(node);
    this.leaf = node.id;
    return node;
  }

  // The ends of all texts.
  leaves() {
    return this.nodes.filter((node) => node.parent !== null && !this.children(node.id).length);
  }

  // Runs of tokens without a fork as {nodes, children}, from the root.
  runs(id = 0) {
    const nodes = id === 0 ? [] : [this.nodes[id]];
    let below = this.children(id);
    while (below.length === 1 && nodes.length) {
      nodes.push(below[0]);
      below = this.children(below[0].id);
    }
    return { nodes, children: below.map((node) => this.runs(node.id)) };
  }
}

// The natural logarithm of the probability of a run of tokens.
export function logP(nodes) {
  return nodes.reduce((sum, node) => sum + Math.log(node.p), 0);
}
