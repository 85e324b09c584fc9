"""`pyroclast next`: how one token is chosen, stage by stage, in bars and words.

Shows `sampling.trace` of the logits after the last token.  A terminal gets bars and colours; a pipe
gets the same numbers and words as plain text.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import sampling_params
from pyroclast.cli.grid import bar, clip, pad, percent, piece
from pyroclast.cli.terminal import colour, counted, fail, read_text, write

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from pyroclast.llm import LLM
    from pyroclast.sampling.params import SamplingParams
    from pyroclast.sampling.stages import StageTrace, TokenTrace, Trace
    from pyroclast.text.tokenizer import Tokenizer

DEFAULT_TOP = 8
_LABEL = 16  # columns for a token's text
_CHANGED, _OUT, _CHOSEN, _FAINT = "36", "31", "1;32", "2"

# stage -> what it does, in words; {} is filled from the parameters.
_WORDS = {
    "model": "The model reads the context and gives every token it knows a score, its logit. "
    "Softmax turns logits into probabilities: P = exp(logit) / sum of all exp(logit).",
    "logit_bias": "The given biases are added to the logits of the given tokens.",
    "penalties": "Tokens that have occurred get lower logits: repetition {repetition_penalty:g} "
    "(prompt and answer), presence {presence_penalty:g}, frequency {frequency_penalty:g} (answer "
    "only, which is still empty).",
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


def add_arguments(command: ArgumentParser, name: str) -> None:
    """The command's own flags."""
    del name
    command.add_argument(
        "--top",
        type=int,
        default=DEFAULT_TOP,
        metavar="K",
        help=f"follow the K most likely tokens (default: {DEFAULT_TOP})",
    )


def next_token(args: Namespace) -> None:
    """Shows every stage between logits and token."""
    from pyroclast.cli.text import load, made_with
    from pyroclast.sampling import trace

    if args.top < 1:
        fail(f"--top must be at least 1, got {args.top}", code=2)
    text, params = read_text(args.text), sampling_params(args)
    params = params.replace(seed=params.fixed_seed())
    with load(args) as llm:
        token_ids, logits = last_logits(llm, text, params)
        # The engine numbers positions and counts the prompt in the same way.
        found = trace(
            logits, params, prompt_ids=token_ids, position=len(token_ids), n_tokens=args.top
        )
        if args.json:
            data = _as_dict(text, token_ids, found, params, llm.tokenizer)
            write(json.dumps({**data, **made_with(llm)}))
            return
        for line in page(text, found, params, llm.tokenizer, len(token_ids), *_paper()):
            write(line)


def last_logits(llm: LLM, text: str, params: SamplingParams) -> tuple[list[int], Any]:
    """(the prompt's token ids, the logits after the last of them), as the engine samples them."""
    seen: list[tuple[list[int], Any]] = []

    def keep(token_ids: Sequence[int], logits: Any) -> Any:
        seen.append((list(token_ids), logits.copy()))
        return logits

    llm.generate(text, params.replace(max_tokens=1, logits_processors=(keep,)))
    return seen[0]


def _paper() -> tuple[int, bool]:
    """(columns, whether bars are wanted) of standard output."""
    bars = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    try:
        "█▏…→".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        bars = False
    return max(60, min(100, shutil.get_terminal_size((80, 24)).columns)), bars


def _as_dict(
    text: str,
    token_ids: list[int],
    found: Trace,
    params: SamplingParams,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    data = found.as_dict()
    for token in data["tokens"]:
        token["text"] = piece(tokenizer, token["token_id"])
    given = params.as_dict()
    del given["logits_processors"]
    chosen = piece(tokenizer, found.token_id)
    head = {"text": text, "prompt_token_ids": token_ids, "chosen": chosen}
    return {**head, **data, "params": given}


# ---- the page ------------------------------------------------------------------------------


def page(
    text: str,
    found: Trace,
    params: SamplingParams,
    tokenizer: Tokenizer,
    n_context: int,
    columns: int,
    bars: bool,
) -> list[str]:
    """The lines of the whole page, at most `columns` wide."""
    quoted = clip(repr(text), columns - 20)
    lines = [
        colour("P(next | context)", "1"),
        f"context: {quoted}, {counted(n_context, 'token')}",
        "",
    ]
    pieces = {token.token_id: piece(tokenizer, token.token_id) for token in found.tokens}
    before: StageTrace | None = None
    for number, stage in enumerate(found.stages):
        lines += _heading(number, stage, before, params, columns)
        for token in found.tokens:
            if before and token.probs[before.name] == 0.0:
                continue  # removed earlier
            label = pieces[token.token_id]
            mark = "►" if bars else "*"
            chosen = mark if token.token_id == found.token_id and _is_last(found, stage) else " "
            lines.append(_row(chosen, label, token, stage, before, columns, bars))
        lines += [*_rest(found.tokens, stage), ""]
        before = stage
    return lines + _draw(found, pieces[found.token_id], columns)


def _is_last(found: Trace, stage: StageTrace) -> bool:
    return stage is found.stages[-1]


def _heading(
    number: int,
    stage: StageTrace,
    before: StageTrace | None,
    params: SamplingParams,
    columns: int,
) -> list[str]:
    words = _WORDS[stage.name].format(**params.as_dict())
    if stage.name == "temperature":
        words += _temperature_words(params.temperature)
    if before and stage.n_removed and stage.name != "greedy":
        words += _RESCALED
    removed = f", {stage.n_removed:,} removed" if stage.n_removed else ""
    measure = (
        f"{counted(stage.n_kept, 'token')} left{removed}; entropy {stage.entropy:.2f} nats: as "
        f"uncertain as {stage.perplexity:,.1f} equally likely tokens (the perplexity)."
    )
    title = colour(f"{number}. {stage.name}", "1")
    body = textwrap.wrap(words, columns - 3) + textwrap.wrap(measure, columns - 3)
    return [title, *(f"   {line}" for line in body)]


def _temperature_words(temperature: float) -> str:
    if temperature < 1:
        return "below 1, likely tokens gain and unlikely ones lose."
    if temperature > 1:
        return "above 1, probabilities move closer together and rare tokens get a chance."
    return "nothing changes. Try 0.5 for safer and 1.5 for wilder text."


def _row(
    mark: str,
    label: str,
    token: TokenTrace,
    stage: StageTrace,
    before: StageTrace | None,
    columns: int,
    bars: bool,
) -> str:
    after = token.probs[stage.name]
    text = f" {mark} {pad(label, _LABEL)} "
    was = token.probs[before.name] if before else after
    text += (
        f"{percent(was)} {'→' if bars else '->'} {percent(after)} " if before else percent(after)
    )
    if token.removed_by == stage.name:
        return colour(text + " removed", _OUT)
    if not bars:
        return text.rstrip()
    drawn = bar(after, columns - _LABEL - 28)  # one scale on the whole page
    code = _CHOSEN if mark != " " else _CHANGED
    return f"{text} {colour(drawn, code)}".rstrip()


def _rest(tokens: list[TokenTrace], stage: StageTrace) -> list[str]:
    """A line about the tokens that are not shown, if there are any."""
    shown = sum(token.probs[stage.name] for token in tokens)
    n_shown = sum(token.probs[stage.name] > 0 for token in tokens)
    n_others = stage.n_kept - n_shown
    if n_others <= 0:
        return []
    others = percent(max(0.0, 1.0 - shown)).strip()
    return [colour(f"   {counted(n_others, 'other token')} together: {others}", _FAINT)]


def _draw(found: Trace, label: str, columns: int) -> list[str]:
    if found.u is None:
        return [colour(f"next token: {label}", _CHOSEN)]
    low, high = found.cdf
    words = (
        f"Lay the remaining tokens end to end on a line from 0 to 1, each as long as its "
        f"probability. The random number {found.u:.6f} (seed {found.seed}, position "
        f"{found.position}) falls on the piece from {low:.6f} to {high:.6f}. The same seed draws "
        f"the same token again."
    )
    lines = [colour("the draw", "1"), *(f"   {line}" for line in textwrap.wrap(words, columns - 3))]
    return [*lines, "", colour(f"next token: {label}", _CHOSEN)]
