"""The processes that bench/gpu.py asks: `python bench/gpu_worker.py ROLE`.

ceilings, ops and truth answer single questions; engine holds a model.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH), str(BENCH / "peers")]
sys.path[:0] = [str(BENCH.parent / folder) for folder in ("engine", "kernels")]

from protocol import serve  # noqa: E402


def handlers(role: str) -> dict[str, Callable[..., Any]]:
    """What a role answers to."""
    if role == "ceilings":
        ceiling = importlib.import_module("pyroclast_kernels.triton.ceiling")
        return {"about": ceiling.about, "measure": ceiling.measure}
    if role == "engine":
        engine = importlib.import_module("gpu_engine").Engine()
        names = ("load", "decode", "prefill", "gaps", "breakdown")
        return {name: getattr(engine, name) for name in names}
    if role == "ops":
        ops = importlib.import_module("gpu_ops")
        answers = {name: getattr(ops, name) for name in ("attention", "sample", "softmax")}
        return {**answers, "suite": ops.Suite().suite}
    truth = importlib.import_module("gpu_truth")
    return {name: getattr(truth, name) for name in ("logits", "products", "greedy", "batch")}


if __name__ == "__main__":
    serve(handlers(sys.argv[1]))
