"""`pyroclast next`: how one token is chosen, stage by stage, in bars and words.

Shows `sampling.trace` of the logits after the last token.  A terminal gets bars and colours; a pipe
gets the same numbers and words as plain text.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import sampling_params
from pyroclast.cli.next_page import Paper, comparison, page
from pyroclast.cli.terminal import fail, read_text, write

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator, Sequence

    from pyroclast.llm import LLM
    from pyroclast.sampling.params import SamplingParams
    from pyroclast.sampling.stages import Trace
    from pyroclast.text.tokenizer import Tokenizer

DEFAULT_TOP = 8
_MAX_STEPS = 1024
_MAX_TEMPERATURES = 16


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
    command.add_argument(
        "-n",
        "--steps",
        type=int,
        default=1,
        metavar="N",
        help="choose N tokens, one after the other (default: 1)",
    )
    command.add_argument(
        "--compare",
        metavar="T,T,...",
        help="the same probabilities at these temperatures, side by side",
    )
    command.add_argument(
        "--html",
        metavar="FILE",
        type=Path,
        help="write an HTML page of it, with sliders, that needs no server",
    )


def next_token(args: Namespace) -> None:
    """Shows every stage between logits and token, for each token that is chosen."""
    from pyroclast.cli.text import load, made_with

    _check(args)
    temperatures = _temperatures(args.compare)
    text, params = read_text(args.text), sampling_params(args)
    if params.seed is None:  # one that a page can hold
        params = params.replace(seed=params.fixed_seed() % 2**32)
    with load(args) as llm:
        steps = []
        for context_ids, n_prompt, logits in steps_of(llm, text, params, args.steps):
            found = _traced(logits, context_ids, n_prompt, params, args.top)
            others = [
                (t, _traced(logits, context_ids, n_prompt, params.replace(temperature=t), args.top))
                for t in temperatures
            ]
            if args.json:
                steps.append(_as_dict(context_ids, found, others, llm.tokenizer))
            else:
                paper = _paper()
                for line in page(context_ids, found, params, llm.tokenizer, paper):
                    write(line)
                if others:
                    write()
                    for line in comparison(others, llm.tokenizer, paper):
                        write(line)
                elif args.steps > 1:
                    write()
        if args.html is not None:
            _write_page(llm, text, params, args.html)
        if args.json:
            write(json.dumps({**_whole(text, steps, params), **made_with(llm)}))
        elif args.html is not None:
            write(f"{args.html}: open it in a browser")


def _check(args: Namespace) -> None:
    """What is wrong with the flags is told before the model is loaded."""
    if args.top < 1:
        fail(f"--top must be at least 1, got {args.top}", code=2)
    if not 1 <= args.steps <= _MAX_STEPS:
        fail(f"-n must be between 1 and {_MAX_STEPS}, got {args.steps}", code=2)
    if args.html is not None:
        from pyroclast.lens.page import NOT_BUILT, is_built

        if not is_built():
            fail(f"--html: {NOT_BUILT}", code=1)


def _write_page(llm: LLM, text: str, params: SamplingParams, path: Path) -> None:
    from pyroclast.cli.text import adapter_of
    from pyroclast.lens import draw_page

    page = draw_page(llm, text, params, adapter=adapter_of(llm))
    path.write_text(page, encoding="utf-8")


def steps_of(
    llm: LLM, text: str, params: SamplingParams, n_steps: int
) -> Iterator[tuple[list[int], int, Any]]:
    """For each token that is chosen: the ids before it, how many of them are the prompt's, and the
    logits after the last of them, as the engine samples them.  Ends where the text ends."""
    seen: list[tuple[list[int], Any]] = []

    def keep(token_ids: Sequence[int], logits: Any) -> Any:
        seen.append((list(token_ids), logits.copy()))
        return logits

    stream = llm.stream(text, params.replace(max_tokens=n_steps, logits_processors=(keep,)))
    n_prompt = 0
    for _ in stream:
        for token_ids, logits in seen:
            n_prompt = n_prompt or len(token_ids)
            yield token_ids, n_prompt, logits
        seen.clear()


def _traced(
    logits: Any, context_ids: list[int], n_prompt: int, params: SamplingParams, n_tokens: int
) -> Trace:
    """The engine numbers positions, and tells prompt from answer, in the same way."""
    from pyroclast.sampling import trace

    return trace(
        logits,
        params,
        prompt_ids=context_ids[:n_prompt],
        output_ids=context_ids[n_prompt:],
        position=len(context_ids),
        n_tokens=n_tokens,
    )


def _temperatures(text: str | None) -> list[float]:
    """What --compare names; wrong usage if that is no list of temperatures."""
    try:
        found = [float(each) for each in text.split(",")] if text is not None else []
    except ValueError:
        found = [-1.0]
    if len(found) > _MAX_TEMPERATURES or not all(0 <= t < math.inf for t in found):
        fail(
            f"--compare must be 1 to {_MAX_TEMPERATURES} temperatures, such as 0.5,1,1.5; got "
            f"{text!r}",
            code=2,
        )
    return found


def _paper() -> Paper:
    """What standard output offers."""
    bars = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    try:
        "█▏…→".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        bars = False
    return Paper(max(60, min(100, shutil.get_terminal_size((80, 24)).columns)), bars)


def _as_dict(
    context_ids: list[int],
    found: Trace,
    others: list[tuple[float, Trace]],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """One step for JSON."""
    data = found.as_dict()
    for token in data["tokens"]:
        token["text"] = _text(tokenizer, token["token_id"])
    chosen = _text(tokenizer, found.token_id)
    step = {"context_token_ids": context_ids, "chosen": chosen, **data}
    if others:
        last = {t: trace.stages[-1].name for t, trace in others}
        step["compared"] = [
            {
                "temperature": t,
                "entropy": trace.stages[-1].entropy,
                "probs": {str(each.token_id): each.probs[last[t]] for each in trace.tokens},
            }
            for t, trace in others
        ]
    return step


def _whole(text: str, steps: list[dict[str, Any]], params: SamplingParams) -> dict[str, Any]:
    """All steps for JSON: the first one's keys beside the rest, if there is only one."""
    given = params.as_dict()
    del given["logits_processors"]
    head = {"text": text, "prompt_token_ids": steps[0]["context_token_ids"]}
    return {**head, **(steps[0] if len(steps) == 1 else {"steps": steps}), "params": given}


def _text(tokenizer: Tokenizer, token_id: int) -> str:
    """A token's own text; bytes that are not UTF-8 by themselves become U+FFFD."""
    if token_id >= tokenizer.vocab_size:
        return ""
    return tokenizer.token_bytes(token_id).decode("utf-8", "replace")
