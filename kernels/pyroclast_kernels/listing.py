"""Every op, format and variant in one list, and which of them runs: `pyroclast kernels`."""

from __future__ import annotations

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.registry import OP_NAMES, get_op
from pyroclast_kernels.selection import Selection, all_variants


def report(rules: str | None = None, device: str = "cpu") -> list[dict[str, str]]:
    """One row per op, format and variant: op, format, variant, status, reason, bit_group.  device
    "cuda": of the variants that a model on the GPU can take, and of the ops that it has.

    status is "chosen", "tuned", "available" or "unavailable"; reason says why an unavailable one is
    not, and for which shapes the tuned table prefers another one to the chosen.
    """
    selection = Selection(rules, on_gpu=device == "cuda")
    rows = []
    for op_name in OP_NAMES:
        variants = all_variants(op_name)
        if selection.on_gpu:
            variants = {name: each for name, each in variants.items() if each.launch}
        for format in get_op(op_name).formats:
            chosen = _chosen(selection, op_name, format)
            tuned = selection.tuned_shapes(op_name, format) if chosen else {}
            for variant in variants.values():
                reason = variant.unavailable
                if not reason and format not in variant.formats:
                    reason = f"does not take format {format}"
                status = "unavailable" if reason else "available"
                if variant.name == chosen:
                    status = "chosen"
                elif variant.name in tuned:
                    status, reason = "tuned", "for " + ", ".join(tuned[variant.name])
                rows.append(
                    {
                        "op": op_name,
                        "format": format,
                        "variant": variant.name,
                        "status": status,
                        "reason": reason,
                        "bit_group": variant.bit_group,
                    }
                )
    return rows


def _chosen(selection: Selection, op: str, format: str) -> str:
    """The variant that runs; on the GPU there may be none: the rows say why."""
    try:
        return selection.variant(op, format).name
    except KernelError:
        if selection.rules or not selection.on_gpu:
            raise
        return ""
