// The stages by name, and what each does with the values that are set.

import { percent } from "./text.js";

export const names = {
  model: "the model", logit_bias: "bias", penalties: "penalties", allowed: "mask",
  temperature: "temperature", top_n_sigma: "top-nσ", min_p: "min-p", top_k: "top-k",
  typical_p: "typical-p", top_p: "top-p", greedy: "greedy",
};

const WORDS = {
  model: () => "The model reads the context and gives every token a score, its logit. Softmax turns "
    + "the logits into probabilities: P = exp(logit) / sum of all exp(logit).",
  logit_bias: () => "The given numbers are added to the logits of the given tokens.",
  penalties: (p) => "Tokens that have occurred get lower logits: repetition "
    + `${p.repetition_penalty} (all of the text), presence ${p.presence_penalty} and frequency `
    + `${p.frequency_penalty} (only what the model has written, which is nothing yet).`,
  allowed: () => "Only the allowed tokens stay; all others are removed.",
  temperature: (p) => `Every logit is divided by ${p.temperature}: ${heat(p.temperature)}`,
  top_n_sigma: (p) => `Keeps logits within ${p.top_n_sigma} standard deviations of the maximum.`,
  min_p: (p) => `Keeps tokens at least ${p.min_p} times as likely as the most likely one.`,
  top_k: (p) => `Keeps the ${p.top_k} most likely tokens.`,
  typical_p: (p) => "Keeps the tokens whose surprise is nearest to the average surprise, until they "
    + `hold ${percent(p.typical_p)}.`,
  top_p: (p) => `Keeps the most likely tokens until they hold ${percent(p.top_p)}: many where the `
    + "model is unsure, few where it is sure.",
  greedy: () => "Temperature 0: the most likely token is taken, and nothing is left to chance.",
};

function heat(temperature) {
  if (temperature < 1) return "below 1, likely tokens gain and unlikely ones lose.";
  if (temperature > 1) return "above 1, probabilities move closer together.";
  return "nothing changes.";
}

export function inWords(name, params) {
  return WORDS[name](params);
}
