"""How fast rollouts are: Pyroclast and transformers.generate in turn (A B A B), on the same weights
in float32, the same prompts and seeds of each round.

A round is what a step of GRPO samples by the defaults of `pyroclast train rl`: a batch of groups of
answers, each group to one sentence of the default task, which asks for JSON.  Each round has other
sentences.  An answer ends where the model ends it, at max_tokens at the latest.  A larger batch
shows how the speed depends on it.  transformers runs the whole batch at once, padded on the left,
with its own cache, until the longest answer has ended.  Both use the same number of threads.
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
from pyroclast.train.preference_settings import RlSettings
from pyroclast.train.shapes import save_model
from pyroclast.train.task import examples

_BATCHES = (RlSettings().batch, 32)


@dataclass(frozen=True)
class Work:
    """What is generated: the prompts of each round, the first of which is not timed."""

    rounds: list[list[list[int]]]
    max_tokens: int
    group: int


def compare(
    model: str, batches: Sequence[int], group: int, max_tokens: int, repeat: int, threads: int
) -> list[dict[str, Any]]:
    """A row for each engine and size of batch, and one for each kind of update."""
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
            for batch in batches:
                rounds = _rounds(llm, repeat + 1, batch // group, group)
                work = Work(rounds, max_tokens, group)
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


def _rounds(llm: LLM, n_rounds: int, n_prompts: int, group: int) -> list[list[list[int]]]:
    """Sentences of the default task, as messages where the model has a template."""
    tokenizer = llm.tokenizer
    asked = [each["messages"][:-1] for each in examples(n_rounds * n_prompts)]
    if tokenizer.chat_template is not None:
        ids = [list(tokenizer.encode_chat(messages)) for messages in asked]
    else:
        ids = [tokenizer.encode(messages[-1]["content"]) for messages in asked]
    return [
        [each for each in ids[i : i + n_prompts] for _ in range(group)]
        for i in range(0, len(ids), n_prompts)
    ]


def _speed_rows(rates: Mapping[str, list[float]], model: str, work: Work) -> list[dict[str, Any]]:
    """Tokens a second, and how many times as many as transformers in the same round."""
    about = {
        "model": model,
        "batch": len(work.rounds[0]),
        "group": work.group,
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


def _ours(llm: LLM, work: Work, i: int) -> int:
    """The number of tokens that Pyroclast generated in round i."""
    prompts = work.rounds[i]
    params = [
        SamplingParams(  # a salt: between two steps, new weights empty the prefix cache
            max_tokens=work.max_tokens, seed=i * 1000 + row, logprobs=0, cache_salt=str(i)
        )
        for row in range(len(prompts))
    ]
    answers = llm.generate(prompts, params, progress=False)
    return sum(len(answer.token_ids) for answer in answers)


def _theirs(policy: Any, llm: LLM, work: Work, i: int) -> int:
    """The number of tokens that transformers generated in round i, without what comes after an
    end."""
    torch, prompts = needed("torch"), work.rounds[i]
    longest = max(map(len, prompts))
    torch.manual_seed(i)
    ends = sorted(llm.tokenizer.eos_token_ids)
    ids = torch.tensor([[ends[0]] * (longest - len(each)) + each for each in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    with torch.no_grad():
        out = policy.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=work.max_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )[:, longest:]
    ended = torch.isin(out, torch.tensor(ends)).long()
    return int((ended.cumsum(1) - ended == 0).sum())


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct", help="a file, folder or name")
    rl = RlSettings()
    add("--batch", type=int, nargs="+", default=_BATCHES, help="answers of a step (8 32)")
    add("--group", type=int, default=rl.group, help=f"answers to each prompt ({rl.group})")
    add("--max-tokens", type=int, default=rl.max_tokens, help=f"of an answer ({rl.max_tokens})")
    add("--repeat", type=int, default=3, help="timed rounds (3)")
    add("--threads", type=int, default=2, help="of each engine (2)")
    add("--json", type=Path, help="write the figures to a file")
    args = parser.parse_args(words)
    if wrong := [each for each in args.batch if each < 1 or each % args.group]:
        parser.error(f"--batch must be a multiple of --group ({args.group}), got {wrong[0]}")
    rows = compare(args.model, args.batch, args.group, args.max_tokens, args.repeat, args.threads)
    for row in rows:
        if "seconds" in row:
            print(f"{row['engine']:<16} {row['seconds']['median']:10.3f} s")
        else:
            speed, ratio = row["tokens_per_s"]["median"], row["ratio"]["median"]
            print(
                f"{row['engine']:<16} {speed:10.1f} tokens/s, batch of {row['batch']}, "
                f"{ratio:.2f} times transformers"
            )
    if args.json:
        write_result(args.json, {"made_with": environment(), "rows": rows})
