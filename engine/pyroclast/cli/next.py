"""`pyroclast next`: how one token is chosen, stage by stage, in bars and words.

Reads `sampling.trace` on the logits after the last token; draws nothing itself and changes nothing.
On a terminal: bars and colours; into a pipe: the same numbers and words as plain text.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import unicodedata
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import sampling_params
from pyroclast.cli.terminal import colour, fail, read_text, write

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from pyroclast.llm import LLM
    from pyroclast.sampling.params import SamplingParams
    from pyroclast.sampling.stages import StageTrace, TokenTrace, Trace
    from pyroclast.text.tokenizer import Tokenizer

DEFAULT_TOP = 8
_LABEL = 16  # columns for a token's text
_EIGHTHS = " ▏▎▍▌▋▊▉"
_CHANGED, _OUT, _CHOSEN, _FAINT = "36", "31", "1;32", "2"

# stage -> what it does, in words; {} is filled from the parameters.
_WORDS = {
    "model": "The model has read the context and gives every token it knows a score, its logit. "
    "Softmax turns scores into probabilities: P = exp(logit) / sum of all exp(logit).",
    "logit_bias": "Given numbers are added to the scores of given tokens.",
    "penalties": "Tokens that have occurred lose score: repetition {repetition_penalty:g} (prompt "
    "and answer), presence {presence_penalty:g}, frequency {frequency_penalty:g} (answer only; "
    "it is still empty here).",
    "allowed": "Only tokens of a given list may come; all others are removed.",
    "temperature": "Every score is divided by {temperature:g}: ",
    "top_n_sigma": "Keeps scores within {top_n_sigma:g} standard deviations of the best.",
    "min_p": "Keeps tokens at least {min_p:g} times as likely as the best.",
    "top_k": "Keeps the {top_k} most likely tokens.",
    "typical_p": "Keeps the tokens whose surprise is nearest to the average surprise, until they "
    "hold {typical_p:g} of the probability.",
    "top_p": "Keeps the most likely tokens until they hold {top_p:g} of the probability: many "
    "where the model is unsure, few where it is sure.",
    "greedy": "Temperature 0: the most likely token is taken. Nothing is left to chance.",
}
_SHARED_OUT = " What is left shares out the whole again."


def add_arguments(command: ArgumentParser, name: str) -> None:
    """The command's own flags."""
    del name
    command.add_argument(
        "--top",
        type=int,
        default=DEFAULT_TOP,
        metavar="K",
        help=f"follow the K likeliest tokens (default: {DEFAULT_TOP})",
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
    """The lines of everything, at most `columns` wide."""
    quoted = clip(repr(text), columns - 20)
    lines = [colour("P(next | context)", "1"), f"context: {quoted}, {n_context} tokens", ""]
    pieces = {token.token_id: piece(tokenizer, token.token_id) for token in found.tokens}
    before: StageTrace | None = None
    for number, stage in enumerate(found.stages):
        lines += _heading(number, stage, before, params, columns)
        for token in found.tokens:
            if before and token.probs[before.name] == 0.0:
                continue  # gone before
            label = pieces[token.token_id]
            mark = "►" if bars else "*"
            chosen = mark if token.token_id == found.token_id and _is_last(found, stage) else " "
            lines.append(_row(chosen, label, token, stage, before, columns, bars))
        lines += [_rest(found.tokens, stage), ""]
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
        words += _SHARED_OUT
    removed = f", {stage.n_removed:,} removed" if stage.n_removed else ""
    tokens = "1 token" if stage.n_kept == 1 else f"{stage.n_kept:,} tokens"
    measure = (
        f"{tokens} in play{removed}; entropy {stage.entropy:.2f} nats: as unsure as a throw of "
        f"{stage.perplexity:,.1f} equal sides (the perplexity)."
    )
    title = colour(f"{number}. {stage.name}", "1")
    body = textwrap.wrap(words, columns - 3) + textwrap.wrap(measure, columns - 3)
    return [title, *(f"   {line}" for line in body)]


def _temperature_words(temperature: float) -> str:
    if temperature < 1:
        return "below 1, likely tokens gain and unlikely ones lose."
    if temperature > 1:
        return "above 1, probabilities move together and rare tokens get their chance."
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


def _rest(tokens: list[TokenTrace], stage: StageTrace) -> str:
    """What the tokens that are not shown hold together."""
    shown = sum(token.probs[stage.name] for token in tokens)
    n_shown = sum(token.probs[stage.name] > 0 for token in tokens)
    n_others = max(0, stage.n_kept - n_shown)
    others = max(0.0, 1.0 - shown) if n_others else 0.0
    return colour(f"   {n_others:,} others together: {percent(others).strip()}", _FAINT)


def _draw(found: Trace, label: str, columns: int) -> list[str]:
    if found.u is None:
        return [colour(f"next token: {label}", _CHOSEN)]
    low, high = found.cdf
    words = (
        f"Lay the tokens that are left end to end, each as long as it is likely, from 0 to 1. The "
        f"random number {found.u:.6f} (seed {found.seed}, position {found.position}) falls on "
        f"the piece from {low:.6f} to {high:.6f}. The same seed draws the same token again."
    )
    lines = [colour("the draw", "1"), *(f"   {line}" for line in textwrap.wrap(words, columns - 3))]
    return [*lines, "", colour(f"next token: {label}", _CHOSEN)]


# ---- text on a grid ------------------------------------------------------------------------


def bar(share: float, columns: int) -> str:
    """A bar of `share` (0 to 1) of `columns`, to an eighth of a column; never empty for a share
    above 0."""
    eighths = round(share * columns * 8)
    if share > 0:
        eighths = max(1, eighths)
    whole, part = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[part] if part else "")


def percent(p: float) -> str:
    """Eight columns: three significant places, however small."""
    if p == 0.0:
        return f"{'0':>7}%"
    if p >= 0.001:
        return f"{p * 100:7.2f}%"
    return f"{p * 100:7.0e}%"


def width(text: str) -> int:
    """Columns that a terminal gives to the text."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    marks = sum(unicodedata.combining(char) > 0 for char in text)
    return len(text) + wide - marks


def clip(text: str, columns: int) -> str:
    """The text, or as much of it as fits with a mark of what is missing."""
    if width(text) <= columns:
        return text
    while width(text) > columns - 1:
        text = text[:-1]
    return f"{text}…"


def pad(text: str, columns: int) -> str:
    """The text in exactly so many columns."""
    text = clip(text, columns)
    return text + " " * (columns - width(text))


def piece(tokenizer: Tokenizer, token_id: int) -> str:
    """A token in quotes, with its spaces, newlines and odd bytes visible."""
    data = b"" if token_id >= tokenizer.vocab_size else tokenizer.token_bytes(token_id)
    if not data:
        return f"<{token_id}>"
    try:
        return repr(data.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(data)
