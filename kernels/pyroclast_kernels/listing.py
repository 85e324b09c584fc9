"""Every op, format and variant in one list, and which of them runs: `pyroclast kernels`."""

from __future__ import annotations

from pyroclast_kernels.registry import OP_NAMES, Selection, all_variants, get_op


def report(rules: str | None = None) -> list[dict[str, str]]:
    """One row per op, format and variant: op, format, variant, status, reason, bit_group.

    status is "chosen", "tuned", "available" or "unavailable"; reason says why an unavailable one is
    not, and for which shapes the tuned table prefers another one to the chosen.
    """
    selection = Selection(rules)
    rows = []
    for op_name in OP_NAMES:
        for format in get_op(op_name).formats:
            chosen = selection.variant(op_name, format).name
            tuned = selection.tuned_shapes(op_name, format)
            for variant in all_variants(op_name).values():
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
