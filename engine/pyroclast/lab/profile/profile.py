"""A profile of one generation: recorded, split into parts that add up, replayed and explained.

The same generation runs once before, so that pages, caches and what is made lazily are there; the
second run is recorded.  The result is fit for JSON; its times are microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyroclast.lab.profile.breakdown import breakdown, split
from pyroclast.lab.profile.products import products
from pyroclast.lab.profile.record import ProfiledLLM, Recorded
from pyroclast.lab.profile.replay import explain, n_ops, replay
from pyroclast.lab.speed import kept_ceilings
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.sampling.params import SamplingParams

SCHEMA = "pyroclast.profile"
VERSION = 1


def prompt_of(n_tokens: int, vocab_size: int) -> list[int]:
    """Token ids from all over the vocabulary."""
    return [(i * 7919 + 1) % vocab_size for i in range(n_tokens)]


def profile(
    llm: ProfiledLLM,
    prompt: str | Sequence[int],
    n_tokens: int,
    *,
    temperature: float = 0.0,
    replays: bool = True,
    progress: Callable[[int, str], Any] | None = None,
) -> tuple[dict[str, Any], Recorded]:
    """(the profile, the recording it was made from).  progress(n, unit) is a context manager that
    yields a function; the function is called with the number done."""
    params = SamplingParams(temperature=temperature, seed=0, max_tokens=n_tokens, ignore_eos=True)
    llm.record(prompt, params)
    recorded = llm.record(prompt, params)
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "version": VERSION,
        "model": llm.llm.name,
        "n_prompt": len(recorded.completion.prompt_token_ids),
        "n_gen": len(recorded.completion.token_ids),
        "load_s": llm.load_s,
        "kernels": llm.model.kernels,
        "table": llm.model.table,
        "kv_dtype": llm.model.kv_dtype,
        "compute": llm.model.compute,
        **environment(),
        **breakdown(recorded),
    }
    ceilings = kept_ceilings.known(recorded.n_threads, ())
    for phase, steps in zip(found["phases"], split(recorded), strict=True):
        phase["products"] = products(steps, llm.model.places, ceilings)
    if replays:
        found["replay"] = _replay(llm, recorded, progress)
    return found, recorded


def _replay(
    llm: ProfiledLLM, recorded: Recorded, progress: Callable[[int, str], Any] | None
) -> dict[str, Any]:
    """The last step as a whole, and each of its ops alone under every variant."""
    program = llm.model.program(sample=True)
    if progress is None:
        replayed = replay(program)
    else:
        with progress(n_ops(program), "op") as show:
            replayed = replay(program, show)
    in_step = replayed.in_step()
    return {
        "step_us": replayed.step.wall_ns / 1000,
        "n_tokens": recorded.steps[-1].n_tokens,
        "ops": [
            {
                "op": alone.op,
                "variant": alone.variant,
                "chosen": alone.chosen,
                "alone_us": alone.us,
                "in_step_us": in_step[alone.op] if alone.chosen else None,
                "n_calls": alone.n_calls,
                "scaled": alone.scaled,
                "reason": alone.reason,
            }
            for alone in replayed.alone
        ],
        "explained": explain(recorded, replayed),
    }
