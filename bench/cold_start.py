"""Cold start: `pyroclast generate -n 1` on a model, process start to exit, and `import pyroclast`.

    python bench/cold_start.py --runs 15 --json bench/results/cold_start.json

Each run is a new process; the files are in the page cache (a first run that is not counted).
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pyroclast_kernels import features

COMMANDS = {
    "import pyroclast": ["-c", "import pyroclast"],
    "generate -n 1": ["-m", "pyroclast", "generate", "The capital of France is", "-n", "1"],
    "python alone": ["-c", "pass"],
}


def measure(arguments: list[str]) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def summary(samples: list[float]) -> dict[str, Any]:
    low, median, high = statistics.quantiles(samples, n=4)
    return {"median_s": median, "quartiles_s": [low, high], "min_s": min(samples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    walls: dict[str, list[float]] = {name: [] for name in COMMANDS}
    cpus: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(args.runs + 1):
        for name, arguments in COMMANDS.items():  # in turn, so that drift hits all alike
            extra = ["--model", args.model] if "generate" in arguments else []
            wall, cpu = measure([*arguments, *extra])
            if run:
                walls[name].append(wall)
                cpus[name].append(cpu)
    rows = {name: {"wall": summary(walls[name]), "cpu": summary(cpus[name])} for name in COMMANDS}
    for name, row in rows.items():
        print(f"{name:18} {row['wall']['median_s']:.3f} s wall, {row['cpu']['median_s']:.3f} s CPU")
    result = {
        "benchmark": "cold_start",
        "model": args.model,
        "runs": args.runs,
        "cpu": features.cpu_name(),
        "n_cpus": features.n_cpus(),
        "python": platform.python_version(),
        "rows": rows,
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
