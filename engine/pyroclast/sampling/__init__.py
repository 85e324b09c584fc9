"""How the next token is drawn: parameters, their arrays, and every stage made visible.

`SamplingParams` says what a request asks for; `trace` shows the distribution after each stage of
the sampler.  Nothing here knows a model or a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyroclast.sampling.params import SamplingParams

if TYPE_CHECKING:
    from pyroclast.sampling.stages import Trace

__all__ = ["SamplingParams", "trace"]


def trace(logits: Any, params: SamplingParams | None = None, **context: Any) -> Trace:
    """Every stage of sampling one token from `logits` (vocab_size,); see `stages.trace`."""
    from pyroclast.sampling import stages  # late: it needs NumPy, plain parameters do not

    return stages.trace(logits, params or SamplingParams(), **context)
