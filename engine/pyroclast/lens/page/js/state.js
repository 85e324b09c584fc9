// What the page shows, kept in the URL's fragment so that a view can be linked.
//   #part=temperature&text=The+sky+is&t=0.8&seed=1

export const DEFAULT_PARAMS = {
  temperature: 1, top_p: 1, top_k: 0, min_p: 0, typical_p: 1, top_n_sigma: 0,
  repetition_penalty: 1, presence_penalty: 0, frequency_penalty: 0,
  logit_bias: {}, allowed_token_ids: null,
};
const SHORT = {
  temperature: "t", top_p: "top_p", top_k: "top_k", min_p: "min_p", typical_p: "typical_p",
  top_n_sigma: "sigma", repetition_penalty: "rep", presence_penalty: "pres",
  frequency_penalty: "freq",
};

export function defaults() {
  return {
    part: "words", model: null, text: "The capital of France is", messages: null, token_ids: null,
    position: null, params: { ...DEFAULT_PARAMS }, seed: 1, view: {},
  };
}

// A state from a fragment.  Unknown names and values that are no numbers are ignored: a link from
// another version still opens.
export function parse(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const state = defaults();
  for (const name of ["part", "model", "text"])
    if (given.has(name)) state[name] = given.get(name);
  if (given.get("read") === "chat") state.messages = chatOf(state.text);
  state.messages = list(given.get("messages"), isMessage) ?? state.messages;
  state.token_ids = list(given.get("ids") && `[${given.get("ids")}]`, Number.isInteger);
  state.position = number(given.get("pos"), null);
  for (const [name, short] of Object.entries(SHORT))
    state.params[name] = number(given.get(short), DEFAULT_PARAMS[name]);
  state.params.logit_bias = biases(given.get("bias"));
  state.params.allowed_token_ids = list(given.get("only") && `[${given.get("only")}]`, Number.isInteger);
  state.seed = Math.max(0, Math.trunc(number(given.get("seed"), 1)));
  for (const [name, value] of given)
    if (name.startsWith("v.")) state.view[name.slice(2)] = value;
  return state;
}

// The fragment of a state; what has its default value is left out.
export function format(state) {
  const out = new URLSearchParams({ part: state.part });
  if (state.model) out.set("model", state.model);
  out.set("text", state.text);
  if (state.messages)
    if (isOneMessage(state)) out.set("read", "chat");
    else out.set("messages", JSON.stringify(state.messages));
  if (state.token_ids) out.set("ids", state.token_ids.join(","));
  if (state.position !== null) out.set("pos", state.position);
  for (const [name, short] of Object.entries(SHORT))
    if (state.params[name] !== DEFAULT_PARAMS[name]) out.set(short, state.params[name]);
  const biased = Object.entries(state.params.logit_bias);
  if (biased.length) out.set("bias", biased.map((pair) => pair.join(":")).join(","));
  if (state.params.allowed_token_ids) out.set("only", state.params.allowed_token_ids.join(","));
  out.set("seed", state.seed);
  for (const [name, value] of Object.entries(state.view))
    if (value !== null && value !== undefined && value !== "") out.set(`v.${name}`, value);
  return `#${out}`;
}

// The names of what differs between two states: "text", "messages", "params", "view", ...
export function changes(before, after) {
  return new Set(
    Object.keys(after).filter((k) => JSON.stringify(before[k]) !== JSON.stringify(after[k])),
  );
}

// What a request says of the context: its model, and exactly one of token_ids, messages, text.
export function body(state) {
  const model = state.model ? { model: state.model } : {};
  if (state.token_ids) return { ...model, token_ids: state.token_ids };
  if (state.messages) return { ...model, messages: state.messages };
  return { ...model, text: state.text };
}

// The sampling parameters of a request.
export function sampling({ params, seed }) {
  return { ...params, seed };
}

export function chatOf(text) {
  return [{ role: "user", content: text }];
}

function isOneMessage(state) {
  return JSON.stringify(state.messages) === JSON.stringify(chatOf(state.text));
}

function isMessage(each) {
  return typeof each?.role === "string" && typeof each?.content === "string";
}

// "id:bias,id:bias" as {id: bias}.
function biases(text) {
  const pairs = (text ?? "").split(",").map((pair) => pair.split(":").map(Number));
  return Object.fromEntries(pairs.filter(([id, bias]) => Number.isInteger(id) && Number.isFinite(bias)));
}

function list(text, isRight) {
  if (!text) return null;
  try {
    const found = JSON.parse(text);
    return Array.isArray(found) && found.length && found.every(isRight) ? found : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

function number(text, otherwise) {
  const x = text === null || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(x) ? x : otherwise;
}
