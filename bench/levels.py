"""What each instruction-set level gains over avx2, on the kernels that it has: both in turn.

    python bench/levels.py --json bench/results/levels.json
    PYROCLAST_MAX_ISA=avxvnni python bench/levels.py --op matmul --format q4_0

Levels that this CPU lacks are named, and left out.  What is timed, and how:
engine/pyroclast/lab/speed/levels.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.speed.levels import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
