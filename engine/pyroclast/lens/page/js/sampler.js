// The sampler's stages in float64, in the order of kernels/pyroclast_kernels/sample/reference.py, so
// that a slider answers from logits that are here.  Logits are float32, and bias and penalties round
// to float32 as the reference does.

const MIN_TEMPERATURE = 1e-5; // below it the most likely token is taken
const FLOAT_MAX = 3.4028234663852886e38;

// Every stage of choosing one token.
// logits: Float32Array.  params: as state.params, with logit_bias ({id: number}) and
// allowed_token_ids (a list) where they are set.  draw: {seed, position, completion, promptIds,
// outputIds}.
// -> {stages: [{name, p, n_kept, n_removed, entropy, perplexity}], token_id, u, cdf, seed, position};
// p: Float64Array over the vocabulary after the stage.  token_id is null if no token is left.
export function trace(logits, params, draw) {
  const early = earlyStages(logits, params, draw);
  const z = early.at(-1).z;
  const stages = early.map(({ name, z: values }) => ({ name, p: probabilities(values, 1) }));
  const head = { seed: draw.seed, position: draw.position };
  if (!(highest(z) > -Infinity))
    return { ...head, stages: measured(logits, stages), token_id: null, u: null, cdf: [0, 0] };
  if (params.temperature < MIN_TEMPERATURE) {
    const p = new Float64Array(z.length);
    const token_id = z.indexOf(highest(z));
    p[token_id] = 1;
    stages.push({ name: "greedy", p });
    return { ...head, stages: measured(logits, stages), token_id, u: null, cdf: [0, 1] };
  }
  stages.push(...cuts(z, params));
  const u = uniform(draw.seed, draw.position, draw.completion ?? 0);
  const cumulative = running(stages.at(-1).p);
  const token_id = at(cumulative, u);
  const total = cumulative.at(-1);
  const low = token_id ? cumulative[token_id - 1] / total : 0;
  return { ...head, stages: measured(logits, stages), token_id, u,
    cdf: [low, cumulative[token_id] / total] };
}

// n draws that differ only in the completion's number: Map of token id -> how often.
export function redraw(p, n, { seed, position }) {
  const cumulative = running(p);
  const counts = new Map();
  for (let completion = 0; completion < n; completion++) {
    const id = at(cumulative, uniform(seed, position, completion));
    counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  return counts;
}

// The one random number of a row, in [0, 1): Philox4x32-10 on (seed; position, completion).
function uniform(seed, position, completion = 0) {
  const mask = 0xffffffffn;
  const [s, p, n] = [BigInt(seed), BigInt(position), BigInt(completion)];
  let c = [p & mask, (p >> 32n) & mask, n & mask, (n >> 32n) & mask];
  let [k0, k1] = [s & mask, (s >> 32n) & mask];
  for (let i = 0; i < 10; i++) {
    const [p0, p1] = [0xd2511f53n * c[0], 0xcd9e8d57n * c[2]];
    c = [(p1 >> 32n) ^ c[1] ^ k0, p1 & mask, (p0 >> 32n) ^ c[3] ^ k1, p0 & mask];
    [k0, k1] = [(k0 + 0x9e3779b9n) & mask, (k1 + 0xbb67ae85n) & mask];
  }
  return Number(((c[0] << 32n) | c[1]) >> 11n) * 2 ** -53;
}

// softmax(z / temperature), float64.
export function probabilities(z, temperature = 1) {
  const p = new Float64Array(z.length);
  const maximum = highest(z);
  if (!(maximum > -Infinity)) return p;
  let sum = 0;
  for (let i = 0; i < p.length; i++) sum += p[i] = Math.exp((z[i] - maximum) / temperature);
  for (let i = 0; i < p.length; i++) p[i] /= sum;
  return p;
}

// In nats.
export function entropy(p) {
  let sum = 0;
  for (let i = 0; i < p.length; i++) if (p[i] > 0) sum -= p[i] * Math.log(p[i]);
  return sum;
}

// Token ids in order of falling value, rising id among equals: a radix sort over float64's bits,
// since a comparison sort of a large vocabulary takes longer than a slider may.
export function falling(values) {
  const n = values.length;
  const copy = new Float64Array(values);
  for (let i = 0; i < n; i++) copy[i] += 0; // -0 + 0 = 0
  const halves = new Uint32Array(copy.buffer);
  for (let i = 0; i < n; i++) {
    const positive = halves[2 * i + 1] >>> 31 === 0;
    if (positive) {
      halves[2 * i] = ~halves[2 * i];
      halves[2 * i + 1] = ~halves[2 * i + 1] & 0x7fffffff;
    }
  }
  const digits = new Uint16Array(copy.buffer);
  let [from, to] = [new Uint32Array(n).map((_, i) => i), new Uint32Array(n)];
  for (let digit = 0; digit < 4; digit++) {
    const starts = new Uint32Array(65537);
    for (let i = 0; i < n; i++) starts[digits[4 * i + digit] + 1]++;
    if (starts.includes(n)) continue; // all alike, as the low bits of float32 values are
    for (let k = 0; k < 65536; k++) starts[k + 1] += starts[k];
    for (let i = 0; i < n; i++) to[starts[digits[4 * from[i] + digit]]++] = from[i];
    [from, to] = [to, from];
  }
  return from;
}

const orders = new WeakMap();

// falling(logits), once for logits that several views or moves of a slider have; they never change.
export function orderOf(logits) {
  if (!orders.has(logits)) orders.set(logits, falling(logits));
  return orders.get(logits);
}

// (name, logits) of the model, then after bias, penalties and mask, as far as they are on.
function earlyStages(logits, params, { promptIds = [], outputIds = [] }) {
  const steps = [{ name: "model", z: logits }];
  const next = (name, change) => {
    const z = new Float32Array(steps.at(-1).z);
    change(z);
    steps.push({ name, z });
  };
  const biases = Object.entries(params.logit_bias);
  if (biases.length)
    next("logit_bias", (z) => biases.forEach(([id, bias]) => { z[id] = clip(z[id] + Math.fround(bias)); }));
  if (params.repetition_penalty !== 1 || params.presence_penalty !== 0
    || params.frequency_penalty !== 0)
    next("penalties", (z) => penalize(z, params, promptIds, outputIds));
  if (params.allowed_token_ids) {
    const allowed = new Set(params.allowed_token_ids);
    next("allowed", (z) => {
      for (let id = 0; id < z.length; id++) if (!allowed.has(id)) z[id] = -Infinity;
    });
  }
  return steps;
}

function penalize(z, params, promptIds, outputIds) {
  const nOutput = new Map();
  for (const id of outputIds) nOutput.set(id, (nOutput.get(id) ?? 0) + 1);
  const repetition = params.repetition_penalty;
  for (const id of new Set([...promptIds, ...outputIds])) {
    const n = nOutput.get(id) ?? 0;
    let x = z[id];
    x = x > 0 ? x / repetition : x * repetition;
    x -= params.frequency_penalty * n;
    if (n > 0) x -= params.presence_penalty;
    z[id] = clip(x);
  }
}

function clip(x) {
  return x === -Infinity ? x : Math.fround(Math.min(Math.max(x, -FLOAT_MAX), FLOAT_MAX));
}

// Temperature and the cuts that are on: [{name, p}].
function cuts(z, params) {
  const t = params.temperature;
  const p = probabilities(z, t);
  const found = [{ name: "temperature", p }];
  const maximum = highest(z);
  let kept = idsAbove(z, -Infinity);
  const cut = (name, ids) => {
    kept = ids;
    found.push({ name, p: only(p, kept) });
  };
  const byLogit = () => {
    const order = orderOf(z);
    if (kept.length === z.length) return order;
    const isKept = new Uint8Array(z.length);
    for (let i = 0; i < kept.length; i++) isKept[kept[i]] = 1;
    return order.filter((id) => isKept[id]);
  };
  if (params.top_n_sigma > 0) {
    const least = -params.top_n_sigma * deviation(z, maximum, kept);
    cut("top_n_sigma", kept.filter((id) => z[id] - maximum >= least));
  }
  if (params.min_p > 0) {
    const least = t * Math.log(params.min_p);
    cut("min_p", kept.filter((id) => z[id] - maximum >= least));
  }
  if (params.top_k > 0 && params.top_k < z.length) cut("top_k", byLogit().slice(0, params.top_k));
  if (params.typical_p < 1) {
    const mean = sumOf(kept, (id) => p[id] * (z[id] - maximum)) / sumOf(kept, (id) => p[id]);
    kept = kept.toSorted(); // rising ids, for equals
    const closest = falling(Float64Array.from(kept, (id) => -Math.abs(z[id] - maximum - mean)));
    cut("typical_p", prefix(closest.map((i) => kept[i]), p, params.typical_p));
  }
  if (params.top_p < 1) cut("top_p", prefix(byLogit(), p, params.top_p));
  return found;
}

// The first of `order`, at least one and no more than it takes to reach `share` of their sum of p.
function prefix(order, p, share) {
  const goal = share * sumOf(order, (id) => p[id]);
  let [n, sum] = [0, 0];
  do sum += p[order[n++]]; while (n < order.length && sum < goal);
  return order.slice(0, n);
}

// p of the kept tokens, scaled to add up to 1; 0 for all others.
function only(p, kept) {
  const sum = sumOf(kept, (id) => p[id]);
  const found = new Float64Array(p.length);
  for (let i = 0; i < kept.length; i++) found[kept[i]] = p[kept[i]] / sum;
  return found;
}

function idsAbove(values, low) {
  const found = new Uint32Array(values.length);
  let n = 0;
  for (let i = 0; i < values.length; i++) if (values[i] > low) found[n++] = i;
  return found.subarray(0, n);
}

function countAbove(values, low) {
  let n = 0;
  for (let i = 0; i < values.length; i++) if (values[i] > low) n++;
  return n;
}

function sumOf(ids, value) {
  let sum = 0;
  for (let i = 0; i < ids.length; i++) sum += value(ids[i]);
  return sum;
}

// The population standard deviation of the kept logits.
function deviation(z, maximum, kept) {
  const mean = sumOf(kept, (id) => z[id] - maximum) / kept.length;
  return Math.sqrt(sumOf(kept, (id) => (z[id] - maximum - mean) ** 2) / kept.length);
}

function measured(logits, stages) {
  let before = countAbove(logits, -Infinity);
  return stages.map(({ name, p }, i) => {
    const n_kept = i === 0 ? before : countAbove(p, 0);
    const h = entropy(p);
    const stage = { name, p, n_kept, n_removed: before - n_kept, entropy: h, perplexity: Math.exp(h) };
    before = n_kept;
    return stage;
  });
}

function running(p) {
  const found = new Float64Array(p.length);
  let sum = 0;
  for (let i = 0; i < p.length; i++) found[i] = sum += p[i];
  return found;
}

// The first token whose running sum exceeds u of the total.
function at(cumulative, u) {
  const t = u * cumulative.at(-1);
  let [low, high] = [0, cumulative.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (cumulative[middle] > t) high = middle;
    else low = middle + 1;
  }
  return low;
}

function highest(z) {
  let found = -Infinity;
  for (let i = 0; i < z.length; i++) if (z[i] > found) found = z[i];
  return found;
}
