"""How fast rollouts are: Pyroclast and transformers.generate in turn (A B A B), on the same weights
in float32, the same prompts and seeds of each round.

Two kinds of work: answers of exactly max_tokens tokens each, and answers that end where the model
ends them, at max_tokens at the latest, as trainers sample them.  transformers runs the whole batch
at once, padded on the left, with its own cache, until the longest answer has ended.  Both use the
same number of threads.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment, quartiles
from pyroclast.llm import LLM
from pyroclast.sampling.params import SamplingParams
from pyroclast.train.base_model import open_base
from pyroclast.train.extra import needed
from pyroclast.train.shapes import save_model

_PROMPTS = (
    "The capital of France is",
    "Write one sentence about the sea.",
    "A list of three fruits:",
    "The meaning of the word entropy is",
)


@dataclass(frozen=True)
class Work:
    """What a round generates; is_open: until the model ends each answer."""

    prompts: list[list[int]]
    max_tokens: int
    is_open: bool


def compare(
    model: str, group: int, max_tokens: int, repeat: int, threads: int
) -> list[dict[str, Any]]:
    """A row for each engine and kind of work, and one for each kind of update."""
    torch = needed("torch")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        policy, files = open_base(model, Path(scratch))
        folder = Path(scratch) / "model"
        folder.mkdir()
        save_model(policy, files, folder)
        how: dict[str, Any] = {"device": "cpu", "threads": threads, "speculation": "off"}  # as `rl`
        with (
            LLM(folder, compute="float32", **how) as llm,
            LLM(f"{folder}@q8_0", **how) as quantized,
        ):
            rows = []
            for is_open in (False, True):
                work = Work(_prompts(llm, group, is_open), max_tokens, is_open)
                runs = {
                    "pyroclast": partial(_ours, llm, work),
                    "transformers": partial(_theirs, policy, llm, work),
                    "pyroclast q8_0": partial(_ours, quantized, work),
                }
                rows += _speed_rows(_in_turn(runs, repeat), model, work)
            state = policy.state_dict()
            updates = {
                "update float32": partial(_updated, llm, state),
                "update q8_0": partial(_updated, quantized, state),
            }
            taken = _in_turn(updates, repeat)
    return rows + [
        {"engine": name, "model": model, "seconds": _figures([1 / each for each in rates])}
        for name, rates in taken.items()
    ]


def _prompts(llm: LLM, group: int, is_open: bool) -> list[list[int]]:
    """Text to be continued; to be answered, messages, where the model has a template."""
    encode = llm.tokenizer.encode
    if is_open and llm.tokenizer.chat_template is not None:
        chats = [[{"role": "user", "content": each}] for each in _PROMPTS]
        return [list(llm.tokenizer.encode_chat(each)) for each in chats for _ in range(group)]
    return [encode(each) for each in _PROMPTS for _ in range(group)]


def _speed_rows(rates: Mapping[str, list[float]], model: str, work: Work) -> list[dict[str, Any]]:
    """Tokens a second, and how many times as many as transformers in the same round."""
    about = {
        "answers": "ended" if work.is_open else "full",
        "model": model,
        "n_prompts": len(work.prompts),
        "max_tokens": work.max_tokens,
    }
    theirs = rates["transformers"]
    return [
        {
            "engine": name,
            **about,
            "tokens_per_s": _figures(found),
            "ratio": _figures([a / b for a, b in zip(found, theirs, strict=True)]),
        }
        for name, found in rates.items()
    ]


def _figures(values: Sequence[float]) -> dict[str, float]:
    low, median, high = quartiles(values)
    return {"median": median, "low": low, "high": high, "n_samples": len(values)}


def _in_turn(runs: Mapping[str, Callable[[int], int]], repeat: int) -> dict[str, list[float]]:
    """How many of what a run counts it does in a second, after one that is not timed."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeat + 1):
        for name, run in runs.items():
            start_s = time.perf_counter()
            n_done = run(i)
            if i:
                found[name].append(n_done / (time.perf_counter() - start_s))
    return found


def _updated(llm: LLM, state: Mapping[str, Any], _: int) -> int:
    """One update of the weights."""
    llm.update_weights(state)
    return 1


def _ours(llm: LLM, work: Work, seed: int) -> int:
    """The number of tokens that Pyroclast generated."""
    params = [
        SamplingParams(
            max_tokens=work.max_tokens,
            seed=seed * 1000 + i,
            ignore_eos=not work.is_open,
            logprobs=0,
        )
        for i in range(len(work.prompts))
    ]
    answers = llm.generate(work.prompts, params, progress=False)
    n_tokens = [len(answer.token_ids) for answer in answers]
    assert work.is_open or set(n_tokens) == {work.max_tokens}
    return sum(n_tokens)


def _theirs(policy: Any, llm: LLM, work: Work, seed: int) -> int:
    """The number of tokens that transformers generated, without what comes after an end."""
    torch, longest = needed("torch"), max(map(len, work.prompts))
    torch.manual_seed(seed)
    ends = sorted(llm.tokenizer.eos_token_ids)
    ids = torch.tensor([[ends[0]] * (longest - len(each)) + each for each in work.prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in work.prompts])
    with torch.no_grad():
        out = policy.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            min_new_tokens=0 if work.is_open else work.max_tokens,
            max_new_tokens=work.max_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )[:, longest:]
    if not work.is_open:
        assert out.shape[1] == work.max_tokens
        return int(out.numel())
    ended = torch.isin(out, torch.tensor(ends)).long()
    return int((ended.cumsum(1) - ended == 0).sum())


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct", help="a file, folder or name")
    add("--group", type=int, default=8, help="answers to each of four prompts (8)")
    add("--max-tokens", type=int, default=64, help="of an answer (64)")
    add("--repeat", type=int, default=5, help="timed rounds (5)")
    add("--threads", type=int, default=2, help="of each engine (2)")
    add("--json", type=Path, help="write the figures to a file")
    args = parser.parse_args(words)
    rows = compare(args.model, args.group, args.max_tokens, args.repeat, args.threads)
    for row in rows:
        if "seconds" in row:
            print(f"{row['engine']:<16} {row['seconds']['median']:10.3f} s")
        else:
            speed, ratio = row["tokens_per_s"]["median"], row["ratio"]["median"]
            print(
                f"{row['engine']:<16} {speed:10.1f} tokens/s, {row['answers']} answers, "
                f"{ratio:.2f} times transformers"
            )
    if args.json:
        write_result(args.json, {"made_with": environment(), "rows": rows})
