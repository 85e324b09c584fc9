"""How fast rollouts are: Pyroclast and transformers.generate in turn (A B A B), on the same weights
in float32, the same prompts, the same number of tokens.

Every answer has exactly max_tokens tokens.  transformers runs the whole batch at once, padded on
the left, with its own cache; both use the same number of threads.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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


def compare(
    model: str, group: int, max_tokens: int, repeat: int, threads: int
) -> list[dict[str, Any]]:
    """A row for each engine, and one for each kind of update."""
    torch = needed("torch")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        policy, files = open_base(model, Path(scratch))
        folder = Path(scratch) / "model"
        folder.mkdir()
        save_model(policy, files, folder)
        with (
            LLM(folder, compute="float32", device="cpu", threads=threads) as llm,
            LLM(f"{folder}@q8_0", device="cpu", threads=threads) as quantized,
        ):
            prompts = [llm.tokenizer.encode(each) for each in _PROMPTS for _ in range(group)]
            tokenizer = needed("transformers").AutoTokenizer.from_pretrained(folder)
            runs = {
                "pyroclast": lambda i: _ours(llm, prompts, max_tokens, i),
                "transformers": lambda i: _theirs(policy, tokenizer, prompts, max_tokens, i),
                "pyroclast q8_0": lambda i: _ours(quantized, prompts, max_tokens, i),
            }
            n_tokens = len(prompts) * max_tokens
            times = _in_turn(runs, repeat)
            state = policy.state_dict()
            updates = {
                "update float32": lambda _: llm.update_weights(state),
                "update q8_0": lambda _: quantized.update_weights(state),
            }
            taken = _in_turn(updates, repeat)
    work = {"model": model, "n_prompts": len(prompts), "max_tokens": max_tokens}
    rows = [
        {"engine": name, **work, "tokens_per_s": _figures([n_tokens / each for each in found])}
        for name, found in times.items()
    ]
    rows += [{"engine": name, **work, "seconds": _figures(each)} for name, each in taken.items()]
    return rows


def _figures(values: Sequence[float]) -> dict[str, float]:
    low, median, high = quartiles(values)
    return {"median": median, "low": low, "high": high, "n_samples": len(values)}


def _in_turn(runs: Mapping[str, Callable[[int], object]], repeat: int) -> dict[str, list[float]]:
    """Seconds of each run, after one of each that is not timed."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeat + 1):
        for name, run in runs.items():
            start_s = time.perf_counter()
            run(i)
            if i:
                found[name].append(time.perf_counter() - start_s)
    return found


def _ours(llm: LLM, prompts: list[list[int]], max_tokens: int, seed: int) -> None:
    params = [
        SamplingParams(max_tokens=max_tokens, seed=seed * 1000 + i, ignore_eos=True, logprobs=0)
        for i in range(len(prompts))
    ]
    answers = llm.generate(prompts, params, progress=False)
    assert all(len(answer.token_ids) == max_tokens for answer in answers)


def _theirs(
    policy: Any, tokenizer: Any, prompts: list[list[int]], max_tokens: int, seed: int
) -> None:
    torch, longest = needed("torch"), max(map(len, prompts))
    torch.manual_seed(seed)
    pad = tokenizer.pad_token_id or tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(each)) + each for each in prompts])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts])
    with torch.no_grad():
        out = policy.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            min_new_tokens=max_tokens,
            max_new_tokens=max_tokens,
            pad_token_id=pad,
        )
    assert out.shape[1] == longest + max_tokens


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
        figure = row.get("tokens_per_s") or row["seconds"]
        unit = "tokens/s" if "tokens_per_s" in row else "s"
        print(f"{row['engine']:<16} {figure['median']:10.3f} {unit}")
    speed = {row["engine"]: row["tokens_per_s"]["median"] for row in rows if "tokens_per_s" in row}
    print(f"pyroclast / transformers: {speed['pyroclast'] / speed['transformers']:.2f}")
    if args.json:
        write_result(args.json, {"made_with": environment(), "rows": rows})
