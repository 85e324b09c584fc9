"""The command tune: which variants are fastest on this machine, kept in a table for later runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import DEFAULT_MODEL, add_device, add_threads
from pyroclast.cli.terminal import colour, fail, write
from pyroclast.errors import KernelError
from pyroclast.model.device import check_device
from pyroclast.progress import progress_bar

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from pyroclast.lab.tune.choice import Choice
    from pyroclast.lab.tune.steps import ModelSteps
    from pyroclast_kernels.tables import TunedTable

_COLUMNS = ("op", "shape", "tokens", "share", "chosen", "time/default", "noise", "")


def add_arguments(command: ArgumentParser, name: str) -> None:
    """The flags of the command `name`, which is tune."""
    del name  # one command only
    command.add_argument(
        "--model",
        "-m",
        default=DEFAULT_MODEL,
        help=f"the model whose steps are measured (default: {DEFAULT_MODEL})",
    )
    add_threads(command)
    command.add_argument("--compute", default="auto", metavar="HOW", help="auto or float32")
    command.add_argument(
        "--kv-dtype", default="auto", metavar="TYPE", help="auto, f32, f16, bf16 or q8_0"
    )
    command.add_argument(
        "--any-bits", action="store_true", help="also allow variants whose results differ in bits"
    )
    command.add_argument(
        "-r",
        "--repetitions",
        type=int,
        default=8,
        metavar="N",
        help="blocks of rounds per step (default: 8)",
    )
    command.add_argument("--dry-run", action="store_true", help="measure, but keep no table")
    add_device(command, "cpu")


def tune(args: Namespace) -> None:
    """Measures, shows what was chosen and why, and writes the table."""
    if check_device(args.device) == "cuda":
        _tune_gpu(args)
        return
    from pyroclast.lab.tune.steps import ModelSteps

    if args.repetitions < 3:
        fail(f"--repetitions must be at least 3, got {args.repetitions}", code=2)
    with ModelSteps(
        args.model, threads=args.threads, compute=args.compute, kv_dtype=args.kv_dtype
    ) as steps:
        found = _measure(steps, args)
    if args.json:
        write(json.dumps(found))
    else:
        _show(found)


def _measure(steps: ModelSteps, args: Namespace) -> dict[str, Any]:
    """Measures, and writes the table unless this is a dry run.  The findings are fit for JSON."""
    from pyroclast.lab.speed.throughput_rows import environment
    from pyroclast.lab.tune import search as lab
    from pyroclast.lab.tune.model import ModelBench
    from pyroclast_kernels import errors, tables

    present, why = tables.current()
    if present is not None and present.any_bits != args.any_bits:
        present = None
    with progress_bar(ModelBench.n_work(args.repetitions), "block") as show:
        bench = ModelBench(steps, args.any_bits, show)
        result = lab.tune(bench, present, any_bits=args.any_bits, n_blocks=args.repetitions)
    made = environment() | {"model": steps.llm.name, "n_threads": steps.llm.n_threads}
    table = tables.TunedTable(
        tables.fingerprint(), tables.build_id(), result.entries, args.any_bits, made
    )
    table = lab.merged(present, table)
    path = None
    if not args.dry_run:
        try:
            path = str(tables.save(table))
        except errors.KernelError as error:
            raise KernelError(str(error)) from error
    return {
        "table": table.name,
        "path": path,
        "replaced": None if present is None else present.name,
        "no_table_before": why,
        "verdicts": [asdict(verdict) for verdict in result.verdicts],
        "dropped": not result.holds,
        "any_bits": args.any_bits,
        "choices": [_row(choice, result.holds) for choice in result.choices],
        "notes": bench.notes,
        "n_entries": _n_changed(table),
        **made,
    }


def _n_changed(table: TunedTable) -> int:
    return sum(entry.variant != entry.default for entry in table.entries)


def _row(choice: Choice, held: bool) -> dict[str, Any]:
    call_class = choice.call_class
    return {
        "op": call_class.op,
        "format": call_class.format,
        "shape": call_class.shape,
        "tokens": choice.tokens,
        "share": choice.share,
        "default": call_class.default,
        "chosen": choice.chosen if held else call_class.default,
        "noise": choice.noise,
        "ratios": dict(choice.ratios),
        "bit_groups": dict(call_class.groups),
        "reason": choice.reason,
    }


def _show(found: dict[str, Any]) -> None:
    """Prints the choices, then the check of whole steps and where the table is.

    A choice serves a class of shapes: all sizes up to the power of two that is shown."""
    from pyroclast_kernels.tables import FEW_TOKENS

    rows = []
    for row in sorted(found["choices"], key=lambda row: (row["tokens"], -row["share"])):
        ratio = row["ratios"].get(row["chosen"], 1.0)
        op = f"{row['op']}.{row['format']}"
        best = min(row["ratios"].values(), default=1.0)
        note = f"{row['reason']} ({best:.3f})" if row["reason"] else ""
        shares = f"{row['share']:.1%}", f"{ratio:.3f}", f"{row['noise']:.1%}"
        size = f"≤{row['shape']}" if row["shape"][:1].isdigit() else row["shape"]
        n_tokens = {"few": f"≤{FEW_TOKENS}", "many": f">{FEW_TOKENS}"}[row["tokens"]]
        cells = (op, size, n_tokens, shares[0], row["chosen"], *shares[1:], note)
        rows.append((cells, row["chosen"] != row["default"]))
    widths = [max(len(cells[i]) for cells, _ in [(_COLUMNS, False), *rows]) for i in range(8)]
    for cells, changed in [(_COLUMNS, False), *rows]:
        line = " | ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        write(colour(f"| {line} |", "32" if changed else "0"))
        if cells is _COLUMNS:
            write("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    write()
    for note in found["notes"]:
        write(f"left out: {note}")
    for verdict in found["verdicts"]:
        busy, wall = (
            f"{verdict[kind]['median']:.3f} ± {verdict[kind]['noise']:.3f}"
            for kind in ("busy", "wall")
        )
        what = f"A whole step of {verdict['tokens']} tokens"
        write(f"{what} takes {wall} of the time under the defaults; its kernels alone, {busy}.")
    if found["dropped"]:
        write("The table is slower than the defaults, so all defaults stay.")
    where = found["path"] or "not written"
    write(f"table {found['table']} ({found['n_entries']} choices differ from the default): {where}")


# ---- the GPU: tiles instead of variants ----------------------------------------------------


def _tune_gpu(args: Namespace) -> None:
    from pyroclast.lab.tune import gpu as tune_gpu

    for flag, given in (("--threads", args.threads), ("--any-bits", args.any_bits)):
        if given:
            fail(f"{flag} applies to the CPU only; leave it out with --device cuda", code=2)
    with progress_bar(100, "%") as show:
        found = tune_gpu.tune(args.model, args.compute, args.kv_dtype, show, keep=not args.dry_run)
    if args.json:
        write(json.dumps(found))
        return
    write("| kernel | format | rows x columns | tokens | default us | time/default | tile |")
    write("|---|---|---|---:|---:|---:|---|")
    for row in found["choices"]:
        name = row["kernel"] + " of a norm" * row["normed"]
        shape = f"{row['n_rows']}x{row['n_cols']}"
        cells = [name, row["format"], shape, str(row["n_tokens"]), f"{row['default_us']:.1f}"]
        tile = (
            ", ".join(f"{k} {v}" for k, v in row["tile"].items()) if row["changed"] else "default"
        )
        line = " | ".join([*cells, f"{row['ratio']:.3f}", tile])
        write(colour(f"| {line} |", "32" if row["changed"] else "0"))
    changed = sum(row["changed"] for row in found["choices"])
    where = found["path"] or "not written"
    write(f"table {found['table']} ({changed} of {len(found['choices'])} tiles changed): {where}")
