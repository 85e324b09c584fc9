"""The page of `pyroclast next`: a token's choice, stage by stage, in words and bars."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyroclast.cli.grid import bar, clip, pad, percent, piece
from pyroclast.cli.terminal import colour, counted
from pyroclast.lens.words import stage_words

if TYPE_CHECKING:
    from pyroclast.sampling.params import SamplingParams
    from pyroclast.sampling.stages import StageTrace, TokenTrace, Trace
    from pyroclast.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Paper:
    """What the page is written on: how many columns, and whether it shows bars."""

    columns: int
    bars: bool


_LABEL = 16  # columns for a token's text
_CHANGED, _OUT, _CHOSEN, _FAINT = "36", "31", "1;32", "2"


def page(
    context_ids: Sequence[int],
    found: Trace,
    params: SamplingParams,
    tokenizer: Tokenizer,
    paper: Paper,
) -> list[str]:
    """The lines of the whole page, at most as wide as the paper."""
    lines = [colour("P(next | context)", "1"), *_context(context_ids, tokenizer, paper), ""]
    pieces = {token.token_id: piece(tokenizer, token.token_id) for token in found.tokens}
    before: StageTrace | None = None
    for number, stage in enumerate(found.stages):
        lines += _heading(number, stage, before, params, paper.columns)
        for token in found.tokens:
            if before and token.probs[before.name] == 0.0:
                continue  # removed earlier
            label = pieces[token.token_id]
            mark = "►" if paper.bars else "*"
            chosen = mark if token.token_id == found.token_id and _is_last(found, stage) else " "
            lines.append(_row(chosen, label, token, stage, before, paper))
        lines += [*_rest(found.tokens, stage), ""]
        before = stage
    return lines + _draw(found, pieces[found.token_id], paper.columns)


def comparison(
    traces: Sequence[tuple[float, Trace]], tokenizer: Tokenizer, paper: Paper
) -> list[str]:
    """The same tokens at several temperatures, side by side: P after the last stage."""
    # Each trace has the most likely tokens, and the one that it chose.
    probs_of = [
        {token.token_id: token.probs[trace.stages[-1].name] for token in trace.tokens}
        for _, trace in traces
    ]
    shown = [t.token_id for t in traces[0][1].tokens if all(t.token_id in p for p in probs_of)]
    n_columns = max(1, min(len(traces), (paper.columns - _LABEL - 3) // 11))
    lines = [colour("temperatures side by side", "1")]
    for start in range(0, len(traces), n_columns):
        some = traces[start : start + n_columns]
        lines.append(" " * (_LABEL + 3) + "".join(f"  T={t:<8g}" for t, _ in some).rstrip())
        for token_id in shown:
            probs = [each[token_id] for each in probs_of[start : start + n_columns]]
            cells = "".join(f"  {percent(p)} " for p in probs)
            lines.append(f"   {pad(piece(tokenizer, token_id), _LABEL)}{cells}".rstrip())
        entropies = "".join(f"  {trace.stages[-1].entropy:8.2f} " for _, trace in some)
        lines.append(colour(f"   {pad('entropy (nats)', _LABEL)}{entropies}".rstrip(), _FAINT))
    return [*lines, ""]


def _context(context_ids: Sequence[int], tokenizer: Tokenizer, paper: Paper) -> list[str]:
    """The tokens of the context, in quotes so that their spaces show; of a long one the last."""
    width = paper.columns - 3
    pieces: list[str] = []
    room = 3 * width - 2 * _LABEL
    for token_id in reversed(context_ids):
        pieces.append(clip(piece(tokenizer, token_id), width))
        room -= len(pieces[-1]) + 1
        if room < 0:
            break
    n_hidden = len(context_ids) - len(pieces)
    hidden = f"{n_hidden:,} before, then " if n_hidden else ""
    lines = textwrap.wrap(
        " ".join(each.replace(" ", "\u00a0") for each in reversed(pieces)),
        width,
        break_on_hyphens=False,
    )
    head = f"context: {counted(len(context_ids), 'token')}; {hidden}in quotes, spaces and all:"
    return [head, *(f"   {line}".replace("\u00a0", " ") for line in lines)]


def _is_last(found: Trace, stage: StageTrace) -> bool:
    return stage is found.stages[-1]


def _heading(
    number: int,
    stage: StageTrace,
    before: StageTrace | None,
    params: SamplingParams,
    columns: int,
) -> list[str]:
    words = stage_words(stage.name, params, rescales=before is not None and stage.n_removed > 0)
    removed = f", {stage.n_removed:,} removed" if stage.n_removed else ""
    measure = (
        f"{counted(stage.n_kept, 'token')} left{removed}; entropy {stage.entropy:.2f} nats: as "
        f"uncertain as {stage.perplexity:,.1f} equally likely tokens (the perplexity)."
    )
    title = colour(f"{number}. {stage.name}", "1")
    body = textwrap.wrap(words, columns - 3) + textwrap.wrap(measure, columns - 3)
    return [title, *(f"   {line}" for line in body)]


def _row(
    mark: str,
    label: str,
    token: TokenTrace,
    stage: StageTrace,
    before: StageTrace | None,
    paper: Paper,
) -> str:
    """A token in one stage: its logit and P at first, later P before and after the stage."""
    after = token.probs[stage.name]
    text = f" {mark} {pad(label, _LABEL)} "
    if before is None:
        text += f"{token.logit:9.2f}  {percent(after)} "
    else:
        text += f"{percent(token.probs[before.name])} {'→' if paper.bars else '->'} "
        text += f"{percent(after)} "
    if token.removed_by == stage.name:
        return colour(text + " removed", _OUT)
    if not paper.bars:
        return text.rstrip()
    drawn = bar(after, paper.columns - _LABEL - 28)  # one scale on the whole page
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
