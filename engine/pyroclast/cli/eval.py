"""The command eval: how many items of a task a model gets right, or how a text surprises it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import sampling_params
from pyroclast.cli.terminal import counted, fail, write
from pyroclast.cli.text import adapter_of, load, made_with

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from pyroclast.lab.evaluate.run import Result
    from pyroclast.lab.evaluate.tasks import Item

_MAX_TEXT_BYTES = 1 << 30
_FIGURES = {  # name -> how a person reads it
    "accuracy": "accuracy",
    "accuracy_normalized": "accuracy, by logprob per byte",
    "exact_match": "exact match",
    "regex_match": "regex match",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
}


def add_arguments(command: ArgumentParser, name: str) -> None:
    """The task, and where each item's result goes."""
    del name
    command.add_argument(
        "task",
        metavar="TASK",
        type=Path,
        help="TASK.jsonl, a line each: "
        '{"context": ..., "choices": [...], "answer": 0}, {"prompt": ..., "answer": ...}, '
        '{"prompt": ..., "regex": ...} or {"text": ...}; any other file is one text',
    )
    command.add_argument(
        "--out", metavar="OUT.jsonl", type=Path, help="write the result of each item to a file"
    )


def evaluate(args: Namespace) -> None:
    """Runs the items and prints the figures.  Texts are generated greedily, unless flags differ."""
    from pyroclast.lab.evaluate.run import evaluate as run
    from pyroclast.lab.evaluate.run import figures
    from pyroclast.progress import progress_bar

    if args.temperature is None:
        args.temperature = 0.0
    if args.out is not None:
        check_out(args.out, args.task)
    items, params = _items(args.task), sampling_params(args)
    with load(args) as llm:
        started_s = time.monotonic()
        with progress_bar(len(items), "item") as show:
            results = run(llm, items, params, show, adapter=adapter_of(llm))
        seconds = time.monotonic() - started_s
        if args.out is not None:
            write_results(args.out, results)
        found = figures(results)
        if not found:
            fail("nothing is scored: a text's first token has no context", code=1)
        n_failed = sum(result.error is not None for result in results)
        if args.json:
            head = {"task": str(args.task), "n_items": len(items), "n_failed": n_failed}
            write(json.dumps({**head, **found, "seconds": seconds, **made_with(llm)}))
            return
    for name, words in _FIGURES.items():
        if name in found:
            write(f"{words:<30} {_shown(found[name])}")
    failed = f", {counted(n_failed, 'item')} failed" if n_failed else ""
    write(f"{counted(len(items), 'item')} in {seconds:.1f} s{failed}")


def _items(path: Path) -> list[Item]:
    from pyroclast.errors import RequestError
    from pyroclast.files.small_file import read_small_text
    from pyroclast.lab.evaluate.tasks import Item, read_task

    if path.suffix == ".jsonl":
        return read_task(path)
    try:
        text = read_small_text(path, _MAX_TEXT_BYTES, RequestError)
    except FileNotFoundError:
        fail(f"{path}: cannot be read: No such file or directory", code=1)
    if not text:
        fail(f"{path}: holds no text", code=1)
    return [Item(path.name, "text", text=text)]


def check_out(out: Path, source: Path) -> None:
    """Ends the command, before any work, where results would replace their source or have no
    place."""
    if out.exists() and source.exists() and out.samefile(source):
        fail(f"--out must not be {source}, which would be lost", code=2)
    if out.is_dir():
        fail(f"--out must be a file, but {out} is a folder", code=2)
    if not out.parent.is_dir():
        fail(f"{out.parent}: no such folder; make it first", code=2)


def write_results(path: Path, results: Sequence[Result]) -> None:
    """A line for each item; the file is replaced when all are written."""
    from pyroclast_kernels.whole_file import replacing

    with replacing(path) as file:
        for result in results:
            file.write(json.dumps(result.as_dict()).encode() + b"\n")


def _shown(figure: dict[str, Any]) -> str:
    value = f"{figure['value']:.4f}"
    if "stderr" in figure:
        return f"{value} ± {figure['stderr']:.4f} ({counted(figure['n'], 'item')})"
    if "n_tokens" in figure:
        return f"{value} ({counted(figure['n_tokens'], 'token')})"
    return f"{value} ({counted(figure['n_bytes'], 'byte')})"
