"""The worker process of the GPU benchmark: `python -m pyroclast.lab.gpu.worker ROLE`.

The roles ceilings, ops and truth answer single questions; the role engine holds a model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from pyroclast.lab.peers.workers.protocol import serve
from pyroclast_kernels.triton.device import INTERPRETED
from pyroclast_kernels.triton.interpreter import make_quick


def handlers(role: str) -> dict[str, Callable[..., Any]]:
    """The requests that a role answers."""
    if role == "ceilings":
        from pyroclast_kernels.triton import ceiling

        return {"about": ceiling.about, "measure": ceiling.measure}
    if role == "engine":
        from pyroclast.lab.gpu.engine import Engine

        engine = Engine()
        names = ("load", "decode", "prefill", "gaps", "breakdown")
        return {name: getattr(engine, name) for name in names}
    if role == "ops":
        from pyroclast.lab.gpu import ops

        answers = {name: getattr(ops, name) for name in ("attention", "sample", "softmax")}
        return {**answers, "suite": ops.Suite().suite}
    from pyroclast.lab.gpu import truth

    return {name: getattr(truth, name) for name in ("logits", "products", "greedy", "batch")}


if __name__ == "__main__":
    if INTERPRETED:
        make_quick()
    serve(handlers(sys.argv[1]))
