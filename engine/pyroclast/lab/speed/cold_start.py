"""Cold start: `import pyroclast` and `generate -n 1`, from the start of a process to its exit.

Each run is a new process.  A first round is not counted: it leaves the files in the page cache and
the byte code beside the sources, as they are on a machine where Pyroclast has run before.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyroclast.lab.speed.process import isolated, python_command, python_path
from pyroclast.lab.speed.result_file import write_result
from pyroclast_kernels import features

COMMANDS = {
    "import pyroclast": ["-c", "import pyroclast"],
    "generate -n 1": ["-m", "pyroclast", "generate", "The capital of France is", "-n", "1"],
    "import numpy": ["-c", "import numpy"],
    "python alone": ["-c", "pass"],
}


def measure(model: str, n_runs: int) -> dict[str, Any]:
    """The times of every command, which take turns, so that drift affects all alike."""
    walls: dict[str, list[float]] = {name: [] for name in COMMANDS}
    cpus: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(n_runs + 1):
        for name, arguments in COMMANDS.items():
            extra = ["--model", model] if "generate" in arguments else []
            wall_s, cpu_s = process_seconds([*arguments, *extra])
            if run:
                walls[name].append(wall_s)
                cpus[name].append(cpu_s)
    return {
        "benchmark": "cold_start",
        "model": model,
        "runs": n_runs,
        "cpu": features.cpu_name(),
        "n_cpus": features.n_cpus(),
        "python": platform.python_version(),
        "rows": {n: {"wall": summary(walls[n]), "cpu": summary(cpus[n])} for n in COMMANDS},
    }


def process_seconds(arguments: list[str]) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of one Python process."""
    environment = isolated(python_path())
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else every run compiles every module
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(python_command(*arguments), env=environment, check=True, capture_output=True)
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, cpu_s


def summary(samples: list[float]) -> dict[str, Any]:
    """Median, quartiles and minimum of at least two samples."""
    low, median, high = statistics.quantiles(samples, n=4)
    return {"median_s": median, "quartiles_s": [low, high], "min_s": min(samples)}


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(words)
    if args.runs < 2:
        parser.error(f"--runs must be at least 2, got {args.runs}")
    result = measure(args.model, args.runs)
    for name, row in result["rows"].items():
        wall_s, cpu_s = row["wall"]["median_s"], row["cpu"]["median_s"]
        print(f"{name:18} {wall_s:.3f} s wall, {cpu_s:.3f} s CPU")
    if args.json:
        write_result(args.json, result)
