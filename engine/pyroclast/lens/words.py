"""What each stage of the sampler does, in words: for `pyroclast next` and for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyroclast.sampling.params import SamplingParams

# stage -> what it does, in words; {} is filled from the parameters.
_WORDS = {
    "model": "The model reads the context and gives every token it knows a score, its logit. "
    "Softmax turns logits into probabilities: P = exp(logit) / sum of all exp(logit). "
    "Each row has the logit, then P.",
    "logit_bias": "The given biases are added to the logits of the given tokens.",
    "penalties": "Tokens that have occurred get lower logits: repetition {repetition_penalty:g} "
    "(prompt and answer), presence {presence_penalty:g}, frequency {frequency_penalty:g} (answer "
    "only, {answer}).",
    "allowed": "Only the allowed tokens stay; all others are removed.",
    "temperature": "Every logit is divided by {temperature:g}: ",
    "top_n_sigma": "Keeps logits within {top_n_sigma:g} standard deviations of the maximum.",
    "min_p": "Keeps tokens at least {min_p:g} times as likely as the most likely one.",
    "top_k": "Keeps the {top_k} most likely tokens.",
    "typical_p": "Keeps the tokens whose surprise is nearest to the average surprise, until they "
    "hold {typical_p:g} of the probability.",
    "top_p": "Keeps the most likely tokens until they hold {top_p:g} of the probability: many "
    "where the model is unsure, few where it is sure.",
    "greedy": "Temperature 0: the most likely token is taken. Nothing is left to chance.",
}
_RESCALED = " The remaining probabilities are scaled up to add up to 1 again."


def stage_words(name: str, params: SamplingParams, *, rescales: bool, n_answered: int = 0) -> str:
    """What the stage does under these parameters.  rescales: it removed tokens, so that the
    probabilities of the others grow.  n_answered: how many tokens of the answer there are."""
    answer = f"which has {n_answered} tokens so far" if n_answered else "which is still empty"
    words = _WORDS[name].format(**params.as_dict(), answer=answer)
    if name == "temperature":
        words += _temperature_words(params.temperature)
    return words + _RESCALED if rescales and name != "greedy" else words


def _temperature_words(temperature: float) -> str:
    if temperature < 1:
        return "below 1, likely tokens gain and unlikely ones lose."
    if temperature > 1:
        return "above 1, probabilities move closer together and rare tokens get a chance."
    return "nothing changes. Try 0.5 for safer and 1.5 for wilder text."
