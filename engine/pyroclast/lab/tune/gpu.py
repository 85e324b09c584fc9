"""Which tiles the products of a model's decoding take on this GPU: makes its tuned table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import KernelError
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.model.device import why_not_cuda
from pyroclast.model.model import Model, load_model
from pyroclast_kernels.errors import KernelError as KernelLibraryError

# As many sequences as the largest class of tokens that is tuned, each with its first token.
_SIZES: dict[str, Any] = {"max_seqs": 64, "max_batch_tokens": 64, "max_logits": 64, "n_blocks": 8}


def tune(
    model: str | Path, compute: str, kv_dtype: str, show: Callable[[int], None], *, keep: bool
) -> dict[str, Any]:
    """Measures, and writes the table if it is to be kept; the outcome, fit for JSON.  KernelError
    where there is no GPU, or the table cannot be written."""
    if reason := why_not_cuda():
        raise KernelError(f'device="cuda" cannot be used: {reason}')
    with open_checkpoint(model) as checkpoint:
        options: dict[str, Any] = _SIZES | {"compute": compute, "kv_dtype": kv_dtype}
        loaded = load_model(checkpoint, device="cuda", kernels="frozen", **options)
        name = checkpoint.name
    try:
        return _tune(loaded, name, show, keep)
    except KernelLibraryError as error:
        raise KernelError(str(error)) from error
    finally:
        loaded.close()


def _tune(model: Model, name: str, show: Callable[[int], None], keep: bool) -> dict[str, Any]:
    from pyroclast_kernels.gpu import tuning as triton_tuning
    from pyroclast_kernels.gpu.program import DeviceProgram
    from pyroclast_kernels.triton import choices as triton_choices

    program = model.program()
    assert isinstance(program, DeviceProgram), "device is cuda"
    outcomes = list(triton_tuning.tune(program, show))
    made = environment() | triton_choices.machine() | {"model": name}
    table = triton_tuning.table_of(outcomes, made)
    path = str(triton_choices.save(table)) if keep else None
    choices = [
        asdict(outcome.product)
        | {
            "default_us": outcome.default_us,
            "ratio": outcome.ratios[outcome.chosen],
            "tile": asdict(outcome.tiles[outcome.chosen]),
            "changed": outcome.chosen > 0,
            "tried": [asdict(tile) for tile in outcome.tiles],
            "ratios": [None if math.isnan(ratio) else ratio for ratio in outcome.ratios],
        }
        for outcome in outcomes
    ]
    return {"table": table.name, "path": path, "choices": choices, **made}
