"""What the pages on disk save an LLM that was just loaded, and what they cost it at load.

One LLM reads all prompts and leaves their pages in a folder.  Each repetition then loads two more,
in turn: one without the folder and one with it, and times the first token of the same prompt.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pyroclast import LLM, SamplingParams
from pyroclast.progress import progress_bar

_ONE = SamplingParams(temperature=0, max_tokens=1)


def measure(model: str, threads: int | None, n_prompt: int, repeat: int) -> dict[str, Any]:
    """A row: medians and quartiles.  disk_ratio and load_ratio are medians of the ratios of single
    repetitions, with the folder over without it."""
    with tempfile.TemporaryDirectory(prefix="pyroclast-pages-") as name:
        folder = Path(name) / "pages"
        with LLM(model, threads=threads, cache_dir=folder) as llm:
            prompts = [
                np.random.default_rng(i).integers(llm.vocab_size // 2, size=n_prompt).tolist()
                for i in range(repeat)
            ]
            llm.generate(prompts, _ONE, progress=False)
            row: dict[str, Any] = {
                "test": "prompt on disk",
                "n_prompt": n_prompt,
                "n_cached": 0,
                "model": llm.name,
                "threads": llm.n_threads,
                "kv_dtype": getattr(llm.model, "kv_dtype", None),
                "kernels": llm.kernels,
            }
        row["n_bytes"] = sum(path.stat().st_size for path in folder.rglob("*.pages"))
        times: dict[str, list[float]] = {
            name: [] for name in ("cold_s", "disk_s", "load_s", "load_folder_s")
        }
        with progress_bar(repeat, "load") as show:
            for i, prompt in enumerate(prompts):
                for cache_dir in (None, folder) if i % 2 else (folder, None):
                    found = _first_token(model, threads, cache_dir, prompt)
                    times["load_s" if cache_dir is None else "load_folder_s"].append(found[0])
                    times["cold_s" if cache_dir is None else "disk_s"].append(found[1])
                    row["n_cached"] = max(row["n_cached"], found[2])
                show(i + 1)
    return row | _summary(times)


def _first_token(
    model: str, threads: int | None, cache_dir: Path | None, prompt: list[int]
) -> tuple[float, float, int]:
    """Seconds to load, seconds to the first token, and the tokens that were cached."""
    start_s = perf_counter()
    with LLM(model, threads=threads, cache_dir=cache_dir) as llm:
        load_s = perf_counter() - start_s
        [completion] = llm.generate([prompt], _ONE, progress=False)
    timings = completion.timings
    assert timings.first_token_s is not None, "one token was generated"
    return load_s, timings.first_token_s, timings.n_cached_tokens


def _summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, quartiles, and the two ratios."""
    summary: dict[str, Any] = {}
    for name, found in times.items():
        summary[name] = statistics.median(found)
        summary[name.replace("_s", "_quartiles_s")] = statistics.quantiles(found, n=4)[::2]
    pairs = {"disk_ratio": ("disk_s", "cold_s"), "load_ratio": ("load_folder_s", "load_s")}
    for name, (over, under) in pairs.items():
        ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
        summary[name] = statistics.median(ratios)
        summary[f"{name}_quartiles"] = statistics.quantiles(ratios, n=4)[::2]
    return summary


def line(row: dict[str, Any]) -> str:
    """What a row says, in one sentence."""
    return (
        f"{row['model']}, just loaded: the first token of {row['n_prompt']} comes after "
        f"{row['cold_s']:.3f} s, with {row['n_cached']} of them on disk after {row['disk_s']:.4f} "
        f"s ({1 / row['disk_ratio']:.0f} times as fast); loading takes {row['load_s']:.2f} s, with "
        f"the folder {row['load_folder_s']:.2f} s"
    )
