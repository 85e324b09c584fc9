"""`pyroclast bench --peers`: the comparison of bench/engine.py, which a checkout has."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.cli.terminal import write
from pyroclast.errors import RequestError

if TYPE_CHECKING:
    from argparse import Namespace

SCRIPT = Path(__file__).resolve().parents[3] / "bench" / "engine.py"
_LISTS = ("prompt", "gen", "depth", "batch")
_PLAIN = ("model", "repetitions", "threads", "kernels", "compute", "kv_dtype")


def compare(args: Namespace) -> None:
    """Runs the script with the command's own arguments: its table, or its rows as JSON lines, each
    with the peers that were missing and the warnings about the run."""
    if not SCRIPT.exists():
        raise RequestError(
            f"--peers runs bench/engine.py, which is part of a checkout, and {SCRIPT} is not "
            "there; clone the repository and run the command in it"
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [*_command(args), "--json", str(out)]
        stdout = subprocess.PIPE if args.json else None
        sys.stdout.flush()
        done = subprocess.run(command, stdout=stdout, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
        if args.json:
            for row in rows_of(json.loads(out.read_text())):
                write(json.dumps(row))


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows that stand alone."""
    made = result["made_with"]
    about = {name: made[name] for name in ("absent", "warnings")}
    return [{**row, **about} for row in result["rows"]]


def _command(args: Namespace) -> list[str]:
    words = [sys.executable, str(SCRIPT), "--peers", *([args.peers] if args.peers else [])]
    for name in _LISTS:
        words += [f"--{name}", ",".join(map(str, getattr(args, name)))]
    for name in _PLAIN:
        value = getattr(args, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words
