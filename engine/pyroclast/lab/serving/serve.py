"""The command that compares servers: its flags, its table, its file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyroclast.checkpoint.convert.run import convert
from pyroclast.lab.peers.arguments import told_in_a_line
from pyroclast.lab.peers.files import cache_directory, made_once, source_of
from pyroclast.lab.peers.folders import hf_folder
from pyroclast.lab.serving import servers, speed
from pyroclast.lab.serving.servers import Kind
from pyroclast.lab.serving.speed import Cell, Options, Round
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.progress import progress_bar
from pyroclast_kernels import features

_GOAL_OVERHEAD = 0.15


def model_file(model: str, format: str | None, directory: Path | None) -> Path:
    """The model's file, converted by Pyroclast if a format is given; made unless it exists."""
    source, key = source_of(model, directory)
    if format is None:
        return source
    found = cache_directory(directory) / f"{key}.{format}.converted.gguf"
    made_once(found, lambda target: _convert(source, target, format))
    return found


def _convert(source: Path, target: Path, format: str) -> None:
    written = target.with_name(f"{target.name}.gguf")  # convert looks at the ending
    try:
        convert(str(source), str(written), format)
        written.replace(target)
    finally:
        written.unlink(missing_ok=True)


def read_kinds(args: argparse.Namespace, model: Path, format: str) -> list[Kind]:
    """The servers, ours first."""
    kinds = [servers.pyroclast(model, format)]
    if args.llama_server:
        kinds.append(servers.llama_server(args.llama_server, model, format))
    if args.vllm:
        kinds.append(servers.vllm(args.vllm, hf_folder(args.model, args.cache)))
    return kinds


def markdown(result: dict[str, Any]) -> str:
    """The rows as a table."""
    head = (
        "| prompt | clients | server | output tok/s | first token, ms | between tokens: p50 | p95 |"
    )
    lines = [head, "|---:|---:|---|---:|---:|---:|---:|"]
    for row in result["rows"]:
        cells = []
        for name, digits in zip(speed.FIGURES, (1, 1, 2, 2), strict=True):
            ratio = row.get(f"{name}_ratio")
            told = "" if ratio is None else f" ({ratio:.2f}x)"
            cells.append(f"{row[name]:.{digits}f}{told}")
        name = f"{row['server']} {row['weights']}"
        lines.append(f"| {row['n_prompt']} | {row['n_clients']} | {name} | {' | '.join(cells)} |")
    lines.append("\nIn parentheses: ours over theirs.")
    if found := result["overhead"]:
        low, high = found["share_quartiles"]
        lines.append(
            f"Server overhead at {found['n_clients']} clients: {found['share']:.1%} "
            f"(quartiles {low:.1%} to {high:.1%})."
        )
    lines += [f"Absent: {name}: {reason}." for name, reason in result["absent"].items()]
    return "\n".join(lines)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The result of the command."""
    load_before = os.getloadavg()
    format = args.format or None
    model = model_file(args.model, format, args.cache)
    cells = [Cell(p, c) for p in numbers(args.prompts) for c in numbers(args.clients)]
    limit_s = 60.0 * args.minutes
    options = Options(model, cells, args.gen, args.rounds, args.threads, args.waves, limit_s)
    kinds = read_kinds(args, model, format or "as it is")
    with progress_bar(speed.n_loads(options, len(kinds)), "load") as show:
        samples = Round(options, kinds, show).run()
    made_with = {
        **environment(),
        "n_threads": args.threads,
        "versions": {kind.name: kind.version for kind in kinds[1:]},
        "n_rounds": samples.n_rounds,
        "load_average": {"before": load_before, "after": os.getloadavg()},
    }
    return {
        "made_with": made_with,
        "model": args.model,
        "overhead_goal": _GOAL_OVERHEAD,
        "overhead": speed.overhead(samples),
        "start_s": samples.start_s,
        "absent": samples.absent,
        "rows": list(speed.rows(options, kinds, samples)),
    }


def numbers(words: str) -> list[int]:
    """The numbers of a list with commas."""
    return [int(word) for word in words.split(",") if word]


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct", help="GGUF file or name")
    add("--format", default="q4_0", help='of the weights; "" for the file as it is (q4_0)')
    add("--llama-server", metavar="FILE", help="llama.cpp's binary; without it, it is left out")
    add("--vllm", metavar="PYTHON", help="a Python that has vLLM; without it, it is left out")
    add("--prompts", default="110,1000", metavar="N,N", help="their tokens (110,1000)")
    add("--clients", default="1,8,64", metavar="N,N", help="at once (1,8,64)")
    add("-n", "--gen", type=int, default=64, metavar="N", help="tokens of an answer (64)")
    add("-r", "--rounds", type=int, default=3, help="at most (3)")
    add("--minutes", type=float, default=24.0, help="no round begins that would end later (24)")
    add("--waves", type=int, default=6, help="of 8 prompts, for the server's own cost (6)")
    add("-t", "--threads", type=int, default=features.n_cpus())
    add("--cache", type=Path, metavar="DIR", help="where files are made, and kept")
    add("--json", type=Path, metavar="FILE")
    args = parser.parse_args(words)
    # The time between two tokens needs two.
    for name, least in (("gen", 2), ("rounds", 1), ("threads", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(args, name)}")
    servers.exit_on_sigterm()
    with told_in_a_line(parser.prog):
        result = measure(args)
        print(markdown(result))
        if args.json:
            write_result(args.json, result)
