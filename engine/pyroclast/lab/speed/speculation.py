"""Speculation on and off in turn (A B A B), and its costs by themselves.

tasks: answers of a chat model to prompts that they repeat more or less, to all requests of a task,
so many at once.  copy: a model of random weights whose text is forced: after each step, the tokens
that it drew are replaced by those of a given text, of which a share copies the prompt.  draft: a
draft model alone proposes, the same tasks for a chat model with wide weights and itself in few
bits, and random tokens for models of random weights, whose drafts are never right: what they cost.
costs: see verify_costs.  drafter: what reading a token costs where nothing repeats.

Each answer to a task has a `cache_salt` of its own, so it copies its own text alone, and no other
answer, be it of the same batch, of another row or of an earlier repetition.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pyroclast import LLM, Completion, SamplingParams
from pyroclast.engine.drafter import Drafter
from pyroclast.engine.past_outputs import PastOutputs
from pyroclast.lab.speed import verify_costs
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.speculation_counts import copied_share, counting_steps
from pyroclast.lab.speed.speculation_tasks import TASKS
from pyroclast.lab.speed.throughput_rows import environment

_CHAT_MODEL = "smollm2-135m-instruct"
_DUMMIES = [
    f"dummy:{shape}@{kind}"
    for shape in ("smollm2-135m", "llama-3.2-1b")
    for kind in ("q4_0", "q8_0")
]
_MODELS = {"tasks": [_CHAT_MODEL], "copy": ["dummy:llama-3.2-1b@q4_0"], "costs": _DUMMIES}
_PAIRS = [
    (f"{_CHAT_MODEL}@f32", _CHAT_MODEL),
    ("dummy:llama-3.2-1b@q4_0", "dummy:llama-3.2-1b:2@q4_0"),
]
_N_PROMPT, _N_COPIED, _N_NEW = 512, 24, 16  # of a forced text: 60% are copied
Generate = Callable[[LLM, SamplingParams], list[list[Completion]]]  # of each batch, in turn
_salts = count()


def in_turn(off: LLM, on: LLM, generate: Generate, n_gen: int, repeat: int) -> dict[str, Any]:
    """Medians of decoding speed; `ratio` is the median of the ratios of single repetitions.
    Tokens, steps and drafts are those of all repetitions."""
    rates: dict[LLM, list[float]] = {off: [], on: []}
    answers: dict[LLM, list[Completion]] = {off: [], on: []}
    n_steps = {off: 0, on: 0}
    for i in range(repeat + 1):  # the first one touches memory
        for llm in (off, on) if i % 2 else (on, off):
            salt = f"{next(_salts)}"
            params = SamplingParams(temperature=0, seed=1, max_tokens=n_gen, cache_salt=salt)
            with counting_steps(llm) as steps:
                batches = generate(llm, params)
            if not i:
                continue
            found = [each for batch in batches for each in batch]
            seconds = sum(max(each.timings.decode_s for each in batch) for batch in batches)
            rates[llm].append(sum(len(each.token_ids) - 1 for each in found) / seconds)
            answers[llm] += found
            n_steps[llm] += steps.n
    texts = [[each.token_ids for each in answers[llm]] for llm in (off, on)]
    assert texts[0] == texts[1], "speculation changed a text"
    ratios = [a / b for a, b in zip(rates[on], rates[off], strict=True)]
    return {
        "off_tokens_per_s": statistics.median(rates[off]),
        "on_tokens_per_s": statistics.median(rates[on]),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "copied": copied_share(answers[on]),
        "n_tokens": sum(map(len, texts[1])),
        "off_steps": n_steps[off],
        "on_steps": n_steps[on],
        "n_drafted": sum(each.timings.n_drafted_tokens for each in answers[on]),
        "n_accepted": sum(each.timings.n_accepted_tokens for each in answers[on]),
        "model": on.name,
        "threads": on.n_threads,
        "kernels": on.kernels,
    }


def task_rows(off: LLM, on: LLM, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each task and each number of requests at once."""
    for name, texts in TASKS.items():
        for n_batch in args.batch or [1, 8]:

            def generate(
                llm: LLM, params: SamplingParams, texts: list[str] = texts, n: int = n_batch
            ) -> list[list[Completion]]:
                return [answer(llm, texts[i : i + n], params) for i in range(0, len(texts), n)]

            row = in_turn(off, on, generate, args.n, args.repeat)
            yield {"test": name, "n_batch": n_batch, "n_requests": len(texts), **row}


def answer(llm: LLM, texts: Sequence[str], params: SamplingParams) -> list[Completion]:
    """The answers to `texts`, all at once.  The prompts are in the cache before, so that no answer
    waits for another one's prompt."""
    conversations = [[{"role": "user", "content": text}] for text in texts]
    each = [params.replace(cache_salt=f"{next(_salts)}") for _ in texts]
    llm.chat(conversations, [one.replace(max_tokens=1) for one in each], progress=False)
    return llm.chat(conversations, each, progress=False)


def copy_rows(off: LLM, on: LLM, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row of a forced text."""
    chance = np.random.default_rng(1)
    prompt = chance.integers(20, off.vocab_size, _N_PROMPT).tolist()
    text = list(prompt)
    while len(text) < _N_PROMPT + args.n:
        begin = int(chance.integers(_N_PROMPT - _N_COPIED))
        text += prompt[begin : begin + _N_COPIED]
        text += chance.integers(20, off.vocab_size, _N_NEW).tolist()
    for llm in (off, on):
        force(llm, text)

    def generate(llm: LLM, params: SamplingParams) -> list[list[Completion]]:
        return [llm.generate(prompt, params.replace(ignore_eos=True), progress=False)]

    row = in_turn(off, on, generate, args.n, args.repeat)
    yield {"test": "forced copy", "n_batch": 1, "n_requests": 1, **row}


def pair_rows(model: str, draft: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of a model and the one that drafts for it."""
    with (
        LLM(model, threads=args.threads, speculation="off") as off,
        LLM(model, threads=args.threads, speculation="draft", draft=draft) as on,
    ):
        for row in task_rows(off, on, args) if _CHAT_MODEL in model else random_rows(off, on, args):
            yield {**row, "test": f"draft model, {row['test']}", "draft": draft}


def random_rows(off: LLM, on: LLM, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row of a random prompt for each batch."""
    chance = np.random.default_rng(1)
    for n_batch in args.batch or [1, 8]:
        prompts = chance.integers(20, off.vocab_size, (n_batch, 64)).tolist()

        def generate(
            llm: LLM, params: SamplingParams, each: Any = prompts
        ) -> list[list[Completion]]:
            return [llm.generate(each, params.replace(ignore_eos=True), progress=False)]

        row = in_turn(off, on, generate, args.n, args.repeat)
        yield {"test": "random tokens", "n_batch": n_batch, "n_requests": n_batch, **row}


def force(llm: LLM, text: Sequence[int]) -> None:
    """From now on each token that a step draws is replaced by the one of `text` in its place."""
    model: Any = llm.model
    stepper: Any = llm._loop.stepper  # noqa: SLF001 - no public name changes what was drawn
    sampled, positions = stepper._sampled, stepper._writer._sample_positions  # noqa: SLF001
    forward = model.forward

    def forced(sample: bool = False) -> None:
        forward(sample)
        for row in range(model.batch.n_logits):
            sampled[row] = text[min(positions[row], len(text) - 1)]

    model.forward = forced


def drafter_row(n_tokens: int, repeat: int) -> dict[str, Any]:
    """Microseconds to read a token of a text without repetition, and of random text in which one
    pair in ten stood before, with answers of the past to look through."""
    past = PastOutputs(1 << 20)
    row: dict[str, Any] = {"test": "drafter", "n_tokens": n_tokens}
    past.add(b"", list(range(-1000, -1)))
    for name, n_ids in (("nothing_us", None), ("some_pairs_us", int((5 * n_tokens) ** 0.5))):
        chance, found = np.random.default_rng(1), list[float]()
        ids = (
            list(range(n_tokens))
            if n_ids is None
            else chance.integers(n_ids, size=n_tokens).tolist()
        )
        for _ in range(repeat):
            drafter = Drafter(text := ids[:1], 1, past)
            begin = perf_counter()
            for token_id in ids[1:]:
                text.append(token_id)
                drafter.read()
            found.append((perf_counter() - begin) / n_tokens * 1e6)
        row[name] = statistics.median(found)
    return row


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    parts = [*_MODELS, "draft", "drafter"]
    add("--part", action="append", choices=parts, help="default: all; repeat")
    add("--model", action="append", help="default: those of the part; repeat")
    add("--draft", metavar="MODEL", help="with --part draft and one --model; default: two pairs")
    add("-n", type=int, default=128, help="tokens to generate at most (128)")
    add("-b", "--batch", type=int, action="append", help="of the tasks; default: 1 and 8; repeat")
    add("--depth", type=int, action="append", help="of the costs; default: 100 and 4096; repeat")
    add("-t", "--threads", type=int)
    add("--repeat", type=int, default=9)
    add("--json", type=Path)
    args = parser.parse_args(words)
    if args.repeat < 2:
        parser.error(f"--repeat must be at least 2, got {args.repeat}: quartiles need two times")
    if args.draft and len(args.model or ()) != 1:
        parser.error("--draft needs one --model, for which it drafts")
    rows = []
    for part in args.part or parts:
        for row in _rows(part, args):
            rows.append(row)
            print(_line(row), flush=True)
    if args.json:
        write_result(args.json, {"made_with": environment(), "rows": rows})


def _rows(part: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if part == "drafter":
        yield drafter_row(4096, args.repeat)
        return
    if part == "draft":
        for model, draft in [(args.model[0], args.draft)] if args.draft else _PAIRS:
            yield from pair_rows(model, draft, args)
        return
    for model in args.model or _MODELS[part]:
        if part == "costs":
            for depth in args.depth or [100, 4096]:
                with LLM(model, threads=args.threads, speculation="off") as llm:
                    yield verify_costs.measure(llm, depth, args.repeat)
            continue
        with (
            LLM(model, threads=args.threads, speculation="off") as off,
            LLM(model, threads=args.threads, speculation="suffix") as on,
        ):
            yield from (task_rows if part == "tasks" else copy_rows)(off, on, args)


def _line(row: dict[str, Any]) -> str:
    if row["test"] == "drafter":
        return (
            f"a token that repeats nothing: {row['nothing_us']:.2f} us; {row['some_pairs_us']:.2f}"
        )
    if row["test"] == "verify":
        costs = " ".join(f"{cost:.2f}" for cost in row["costs"])
        return f"{row['model']} at {row['n_depth']}: {row['step_s'][0] * 1e3:.2f} ms x {costs}"
    return (
        f"{row['model']}, {row['test']}, batch {row['n_batch']}: {row['off_tokens_per_s']:.1f} -> "
        f"{row['on_tokens_per_s']:.1f} tokens/s ({row['ratio']:.2f} times); "
        f"{row['n_accepted']} of {row['n_drafted']} drafts right, {row['n_tokens']} tokens, "
        f"{row['copied']:.0%} copied, {row['off_steps']} -> {row['on_steps']} steps"
    )
