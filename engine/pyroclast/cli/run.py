"""The command run: a file of requests in, a file of answers out."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import one_adapter, sampling_params
from pyroclast.cli.terminal import counted, fail, warn, write
from pyroclast.cli.text import adapter_of, load, made_with

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from pyroclast.lab.batch.requests import BatchRequest
    from pyroclast.lab.batch.run import Totals
    from pyroclast.llm import LLM


def add_arguments(command: ArgumentParser, name: str) -> None:
    """The two files."""
    del name
    command.add_argument(
        "requests",
        metavar="IN.jsonl",
        type=Path,
        help='a line each: {"prompt": "..."} or {"messages": [...]}, with "id", "params" '
        '({"max_tokens": 16}) and "template" if wanted',
    )
    command.add_argument(
        "--out",
        required=True,
        metavar="OUT.jsonl",
        type=Path,
        help="a line for each completion, as it ends; answers that it holds are kept",
    )


def run(args: Namespace) -> None:
    """Answers what OUT does not hold yet.  Flags are the defaults of the lines' params."""
    from pyroclast.lab.batch.answers import AnswerFile
    from pyroclast.lab.batch.requests import hashes_of, read_requests

    if args.out.exists() and args.requests.exists() and args.out.samefile(args.requests):
        fail("--out must not be the file of requests", code=2)
    requests = read_requests(args.requests, sampling_params(args))
    if not requests:
        fail(f"{args.requests}: holds no requests", code=1)
    n_lines = {request.id: request.params.n for request in requests}
    hashes = hashes_of(requests, [args.model, one_adapter(args)])
    with AnswerFile(args.out, n_lines, hashes) as answers:
        left = [request for request in requests if request.id not in answers.done]
        found: dict[str, Any] = {"path": str(args.out), "n_kept": len(answers.done)}
        if left:
            with load(args) as llm:
                totals, seconds = _answer(llm, left, answers)
                found |= {**asdict(totals), "seconds": seconds, **made_with(llm)}
        else:
            found |= {"n_requests": 0, "n_failed": 0}
    _tell(found, as_object=args.json)
    if found["n_failed"]:
        fail(
            f"{counted(found['n_failed'], 'request')} failed: see the lines with "
            f'"error" in {args.out}; remove them to try again',
            code=1,
        )


def _answer(llm: LLM, left: list[BatchRequest], answers: Any) -> tuple[Totals, float]:
    from pyroclast.lab.batch.run import run_batch
    from pyroclast.progress import progress_bar

    started_s = time.monotonic()
    try:
        with progress_bar(len(left), "request") as show:
            totals = run_batch(llm, left, answers.write, show, adapter=adapter_of(llm))
    except KeyboardInterrupt:
        warn(f"stopped; the same command goes on from {answers.path}")
        raise
    return totals, time.monotonic() - started_s


def _tell(found: dict[str, Any], *, as_object: bool) -> None:
    if as_object:
        write(json.dumps(found))
        return
    parts = [counted(found["n_requests"], "request")]
    if found["n_kept"]:
        parts.append(f"{found['n_kept']:,} kept from before")
    if found["n_requests"]:
        tokens = f"{found['n_prompt_tokens']:,} + {counted(found['n_completion_tokens'], 'token')}"
        parts.append(f"{tokens} in {found['seconds']:.1f} s")
    write(f"{found['path']}: {', '.join(parts)}")
