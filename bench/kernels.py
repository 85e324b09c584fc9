"""Checks and times every kernel: `pyroclast bench kernels` on the sources of this checkout.

    python bench/kernels.py                       all, to bench/results/kernels.json
    python bench/kernels.py --quick --op norm     as of `pyroclast bench kernels --help`

Exits with 1 if a kernel was wrong, crashed or hung; its row says how.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.cli.main import main  # noqa: E402

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not any(word.split("=")[0] == "--out" for word in arguments):
        arguments += ["--out", str(ROOT / "bench" / "results" / "kernels.json")]
    main(["bench", "kernels", *arguments])
