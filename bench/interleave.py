"""What running streams notice of a long prompt: the time between their tokens, quiet and beside it.

    python bench/interleave.py --streams 1 --streams 8 --json bench/results/interleave.json

What is timed, and how: engine/pyroclast/lab/speed/interleave.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.speed.interleave import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
