"""A fixed list of comparisons within a time limit: what bench/results/ shows of a machine.

Each part is a script run as a process of its own.  Its result is kept beside the made files, so a
part that is done at this commit is not done again; the whole is written anew after each part.  A
part that is not expected to end in time is left out, and told.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.files import cache_directory
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.progress import progress_bar

BENCH = Path(__file__).resolve().parent.parent
DEMO, DUMMY = "smollm2-135m-instruct", "dummy:llama-3.2-1b"
_MAX_LAST_WORDS = 300
DIRTY = "-dirty"  # such a checkout changes under the same name: nothing done in it is kept


@dataclass(frozen=True)
class Part:
    """A script of bench/ with its arguments; minutes: what it takes on a quiet two-core machine,
    the making of files aside."""

    name: str
    script: str
    arguments: str
    minutes: float


CPU = (
    Part("1B Q4_0", "engine.py", f"--model {DUMMY} --format q4_0 -p 512 -n 128 -r 3", 4),
    Part("1B Q8_0", "engine.py", f"--model {DUMMY} --format q8_0 -p 512 -n 128 -r 3", 5),
    Part("135M", "engine.py", f"--model {DEMO} --format q8_0,q4_0,q4_k_m -p 512 -n 128 -r 5", 4),
    Part("1B Q4_K_M", "engine.py", f"--model {DUMMY} --format q4_k_m -p 512 -n 128 -r 3", 4),
    Part("135M depth", "engine.py", f"--model {DEMO} --format q4_0 -p 512 -n 64 -d 4096 -r 3", 4),
    Part("1B batches", "engine.py", f"--model {DUMMY} --format q4_0 -p 0 -n 32 -b 1,8 -r 3", 3),
    Part("135M batches", "engine.py", f"--model {DEMO} --format q4_0 -p 0 -n 64 -b 1,16 -r 3", 2),
    Part("fidelity", "fidelity.py", f"--model {DEMO}", 4),
    Part("1B BF16", "engine.py", f"--model {DUMMY} --format bf16 -p 512 -n 16 -r 3", 3),
    Part("neighbour 135M", "neighbour.py", f"--model {DEMO} --format q4_0 -n 64 -r 5", 1),
    Part("neighbour 1B", "neighbour.py", f"--model {DUMMY} --format q4_0 -n 16 -r 3", 1),
    Part("load", "load.py", f"--model {DUMMY} --format q8_0 -r 5", 1),
)
# The same, as small as it gets: to see whether everything is there.
_SMALL = {"-p": "32", "-n": "4", "-d": "64", "-r": "1"}


def small(part: Part) -> Part:
    """A part that proves nothing, soon."""
    words = part.arguments.split()
    for i, flag in enumerate(words[:-1]):
        if flag in _SMALL and words[i + 1] != "0":
            words[i + 1] = _SMALL[flag]
    if part.script == "fidelity.py":
        words += ["--format", "q8_0,q4_0", "--texts", "1", "--tokens", "32"]
    return Part(part.name, part.script, " ".join(words), minutes=1)


SUITES = {"cpu": CPU, "dry": tuple(small(part) for part in CPU)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of bench/engine.py that are about suites."""
    parser.add_argument("--suite", choices=SUITES, help="run a list of comparisons instead")
    parser.add_argument("--minutes", type=float, default=40, help="that the suite may take")
    parser.add_argument("--fresh", action="store_true", help="do parts again that are done")
    parser.add_argument("--only", default="", metavar="PART,...", help="of the suite")


def run(args: argparse.Namespace) -> int:
    """Does what is left of the suite; 1 if a part failed."""
    wanted = [name.strip() for name in args.only.split(",") if name.strip()]
    known = [part.name for part in SUITES[args.suite]]
    if unknown := [name for name in wanted if name not in known]:
        print(f"no part {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    parts = [part for part in SUITES[args.suite] if not wanted or part.name in wanted]
    deadline = time.monotonic() + 60 * args.minutes
    records: dict[str, dict[str, Any]] = {}
    with progress_bar(len(parts), "part") as show:
        for number, part in enumerate(parts, 1):
            record = _known(args, part)
            if record is None:
                record = _do(args, part, deadline)
            records[part.name] = record
            print(f"{part.name}: {_state(record)}", file=sys.stderr)
            show(number)
            _write(args, records)
    return int(any("failed" in record for record in records.values()))


def _command(args: argparse.Namespace, part: Part) -> list[str]:
    """The part's own arguments, and those of the suite that concern every part."""
    words = [part.script, *part.arguments.split()]
    if args.peers is not None:
        words += ["--peers", args.peers]
    for name, python in args.peer.items() if args.peers is None else ():
        words += ["--peer", f"{name}={python}"]
    if args.cache is not None:
        words += ["--cache", str(args.cache)]
    return [*words, "--threads", str(args.threads)]


def _kept_at(args: argparse.Namespace, part: Part) -> Path:
    key = hashlib.sha256(" ".join(_command(args, part)).encode()).hexdigest()[:8]
    directory = cache_directory(args.cache) / "parts"
    directory.mkdir(exist_ok=True)
    return directory / f"{part.name.replace(' ', '_')}.{key}.json"


def _known(args: argparse.Namespace, part: Part) -> dict[str, Any] | None:
    """The part's result, if it was done at this commit and may be kept."""
    path = _kept_at(args, part)
    if args.fresh or not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    commit = environment()["commit"]
    return record if record["commit"] == commit and not commit.endswith(DIRTY) else None


def _do(args: argparse.Namespace, part: Part, deadline: float) -> dict[str, Any]:
    left = (deadline - time.monotonic()) / 60
    if part.minutes > left:
        return {"left_out": f"{part.minutes} minutes expected, {left:.1f} left"}
    kept = _kept_at(args, part)
    out, start = kept.with_suffix(".out"), time.monotonic()
    script, *words = _command(args, part)
    command = [sys.executable, str(BENCH / script), *words, "--json", str(out)]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=60 * left, check=False
        )
    except subprocess.TimeoutExpired:
        return {"left_out": f"not done after {left:.1f} minutes"}
    if done.returncode:
        return {"failed": f"exit code {done.returncode}: {done.stdout[-_MAX_LAST_WORDS:]}"}
    record = {
        "arguments": part.arguments,
        "commit": environment()["commit"],
        "minutes": round((time.monotonic() - start) / 60, 2),
        "result": json.loads(out.read_text()),
        "markdown": done.stdout.strip(),
    }
    out.unlink()
    kept.write_text(json.dumps(record))
    return record


def _state(record: dict[str, Any]) -> str:
    for reason in ("left_out", "failed"):
        if reason in record:
            return f"{reason.replace('_', ' ')}: {record[reason]}"
    return f"done in {record['minutes']} minutes"


def _write(args: argparse.Namespace, records: dict[str, dict[str, Any]]) -> None:
    """All parts so far: JSON, and their tables as Markdown beside it."""
    made_with = {**environment(), "system": platform.platform(), "n_threads": args.threads}
    whole = {"made_with": {**made_with, "suite": args.suite}, "parts": records}
    lines = [f"# Suite {args.suite}, commit {made_with['commit']}, {made_with['cpu']}"]
    for name, record in records.items():
        lines += ["", f"## {name}", "", record.get("markdown", f"{_state(record)}.")]
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(whole, indent=1) + "\n")
        args.json.with_suffix(".md").write_text("\n".join(lines) + "\n")
    else:
        print("\n".join(lines))
