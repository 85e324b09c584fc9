"""Decode speed with a busy neighbour on one core, as a share of the undisturbed speed.

    python bench/neighbour.py --format q4_0 --peers ENVIRONMENTS --json FILE.json

What is timed, and how: engine/pyroclast/lab/peers/neighbour.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.peers.neighbour import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
