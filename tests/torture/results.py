"""The table of a campaign, and the file that long runs accumulate in."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from pyroclast.lab.speed.result_file import write_result
from torture.campaign import Outcome

_ROOT = Path(__file__).resolve().parents[2]


def table(outcomes: dict[str, Outcome]) -> str:
    """Cases by kind: all, those refused with a PyroclastError, a second, and findings."""
    rows = [_row(name, outcome) for name, outcome in outcomes.items()]
    total = Outcome()
    for outcome in outcomes.values():
        total.add(outcome)
    lines = [f"{'kind':<20} {'cases':>9} {'refused':>9} {'a second':>9} {'seconds':>8} findings"]
    for row in [*rows, _row("total", total)]:
        rate = row["cases"] / max(row["seconds"], 1e-9)
        lines.append(
            f"{row['kind']:<20} {row['cases']:>9} {row['refused']:>9} {rate:>9.0f} "
            f"{row['seconds']:>8.0f} {row['findings']:>8}"
        )
    return "\n".join(lines)


def _row(name: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "kind": name,
        "cases": outcome.cases,
        "refused": outcome.refused,
        "seconds": round(outcome.seconds, 1),
        "findings": len(outcome.findings),
    }


def merge(path: Path, outcomes: dict[str, Outcome]) -> None:
    """Adds the counts to those that the file has; two campaigns may end at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
        rows = {row["kind"]: row for row in known["rows"]}
        for name, outcome in outcomes.items():
            new = _row(name, outcome)
            old = rows.setdefault(name, dict.fromkeys(new, 0) | {"kind": name})
            rows[name] = {"kind": name} | {
                key: round(old[key] + value, 1) for key, value in new.items() if key != "kind"
            }
        made_with = {"cpu": _cpu(), "python": platform.python_version(), "commit": _commit()}
        write_result(path, {"made_with": made_with, "rows": list(rows.values())})
    finally:
        os.close(folder)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """The commit that the last campaign ran at."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip()
