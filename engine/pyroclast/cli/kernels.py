"""The command kernels: which variant of each op runs, which others could, and why not the rest."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import add_own_folder
from pyroclast.cli.terminal import colour, fail, write
from pyroclast.errors import KernelError
from pyroclast.model.device import check_device, why_not_cuda
from pyroclast_kernels import features
from pyroclast_kernels.errors import KernelError as KernelLibraryError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    Row = dict[str, str]

_COLOURS = {"chosen": "32", "tuned": "36", "available": "0", "unavailable": "2"}
_LINE = 100  # columns of a pipe, and the most of a terminal


def add_arguments(command: ArgumentParser, name: str) -> None:
    """What to list."""
    del name
    command.add_argument(
        "op", metavar="OP", nargs="?", help="only this op or op.format, a line for each variant"
    )
    command.add_argument("--chosen", action="store_true", help="only the variants that run")
    add_own_folder(command)


def kernels(args: Namespace) -> None:
    """Each op: the formats that it takes, the variants, and which one runs."""
    from pyroclast_kernels import Selection, report, user_variants

    device = check_device(args.device)
    try:
        if args.dir is not None:
            user_variants.add_folder(args.dir)
        rows = _of_op(report(args.kernels, device), args.op)
        selection = Selection(args.kernels, on_gpu=device == "cuda")
        for op, format in {(row["op"], row["format"]) for row in rows if device == "cpu"}:
            selection.tuned_shapes(op, format)  # notes which table entries do not apply
    except KernelLibraryError as error:
        raise KernelError(str(error)) from error
    if args.chosen:
        rows = [row for row in rows if row["status"] in ("chosen", "tuned")]
    if args.json:
        rules = os.environ.get("PYROCLAST_KERNELS", "") if args.kernels is None else args.kernels
        table = {"table": selection.table, "table_notes": selection.table_notes}
        found = {"rules": rules, **table, "device": device, "cpu": features.cpu_name()}
        write(json.dumps({**found, "cuda": why_not_cuda(), "kernels": rows}))
        return
    for line in _listed(rows, one_op=args.op is not None, chosen=args.chosen):
        write(line)
    last = [f"cuda: {why_not_cuda() or 'can be used (`pyroclast kernels --device cuda`)'}"]
    if device == "cpu":
        last.insert(0, f"table: {'; '.join([selection.table, *selection.table_notes])}")
    for line in last:
        for part in textwrap.wrap(line, _width(), subsequent_indent="  ", break_on_hyphens=False):
            write(part)


def _of_op(rows: list[Row], name: str | None) -> list[Row]:
    """The rows of an op or an op.format; wrong usage if there is none."""
    if name is None:
        return rows
    op, _, format = name.partition(".")
    found = [row for row in rows if row["op"] == op]
    if not found:
        ops = ", ".join(dict.fromkeys(row["op"] for row in rows))
        fail(f"there is no op {op!r}; there are {ops}", code=2)
    if format:
        formats = ", ".join(dict.fromkeys(row["format"] for row in found))
        found = [row for row in found if row["format"] == format]
        if not found:
            fail(f"{op} takes no format {format!r}; it takes {formats}", code=2)
    return found


def _listed(rows: list[Row], *, one_op: bool, chosen: bool) -> list[str]:
    if chosen:
        return _chosen(rows)
    return _lines(rows) if one_op else _grouped(rows)


def _chosen(rows: list[Row]) -> list[str]:
    """A line for each op and variant: the formats that it runs, and why where a table says so."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        key = row["op"], row["variant"], _plain(row["reason"], row["format"])
        found.setdefault(key, []).append(row["format"])
    widths = [max((len(key[i]) for key in found), default=0) for i in (0, 1)]
    lines = []
    for (op, variant, reason), formats in found.items():
        head = f"{op:<{widths[0]}}  {variant:<{widths[1]}}  "
        text = ", ".join(formats) + (f" ({reason})" if reason else "")
        lines += textwrap.wrap(
            text, _width(), initial_indent=head, subsequent_indent=" " * len(head)
        )
    return lines


def _width() -> int:
    columns = shutil.get_terminal_size((_LINE, 24)).columns if sys.stdout.isatty() else _LINE
    return max(40, min(_LINE, columns))


def _lines(rows: list[Row]) -> list[str]:
    """A line for each variant, and its reason."""
    widths = [max(len(row[key]) for row in rows) for key in ("op", "format", "variant", "status")]
    lines, before = [], ""
    for row in rows:
        name = f"{row['op']:<{widths[0]}}  {row['format']:<{widths[1]}}"
        shown = name if name != before else " " * len(name)
        before = name
        head = f"{row['variant']:<{widths[2]}}  {row['status']:<{widths[3]}}  "
        reason = textwrap.wrap(row["reason"], max(20, _width() - len(name) - 2 - len(head)))
        for i, part in enumerate(reason or [""]):
            text = head + part if i == 0 else " " * len(head) + part
            lines.append(
                f"{shown if i == 0 else ' ' * len(name)}  "
                f"{colour(text.rstrip(), _COLOURS[row['status']])}"
            )
    return lines


def _grouped(rows: list[Row]) -> list[str]:
    """Each op once; formats with the same variants share a paragraph, and equal reasons a note."""
    lines: list[str] = []
    notes: dict[str, int] = {}
    for op, of_op in groupby(rows, key=lambda row: row["op"]):
        formats: dict[Any, list[str]] = {}
        for format, of_format in groupby(of_op, key=lambda row: row["format"]):
            variants = tuple((r["variant"], r["status"], r["reason"]) for r in of_format)
            same = tuple((v, s, _plain(why, format)) for v, s, why in variants)
            formats.setdefault(same, []).append(format)
        lines.append(colour(op, "1"))
        for variants, names in formats.items():
            lines += textwrap.wrap(
                ", ".join(names), _width() - 2, initial_indent="  ", subsequent_indent="  "
            )
            lines += _paragraph(variants, notes)
    lines.append("")
    for note, number in notes.items():
        lines += textwrap.wrap(f"[{number}] {note}", _width(), subsequent_indent="    ")
    return lines


def _plain(reason: str, format: str) -> str:
    """A reason without the name of the format, so that formats can share it."""
    return reason.replace(f"format {format}", "this format")


def _paragraph(variants: tuple[tuple[str, str, str], ...], notes: dict[str, int]) -> list[str]:
    """The variants in words: the one that runs, others that could, and those that cannot."""
    parts = []
    for status, words in (("chosen", "runs"), ("tuned", "tuned"), ("available", "also")):
        named = [
            f"{name} ({why})" if why else name for name, each, why in variants if each == status
        ]
        if named:
            parts.append((f"{words}: {', '.join(named)}", _COLOURS[status]))
    cannot = [
        f"{name} [{notes.setdefault(why, len(notes) + 1)}]"
        for name, each, why in variants
        if each == "unavailable"
    ]
    if cannot:
        parts.append((f"not: {', '.join(cannot)}", _COLOURS["unavailable"]))
    return [
        colour(line, code)
        for text, code in parts
        for line in textwrap.wrap(
            text,
            _width(),
            initial_indent="    ",
            subsequent_indent="      ",
            break_on_hyphens=False,
        )
    ]
