"""Rollouts by Pyroclast and by transformers.generate, in turn, and what taking over weights costs.

    python bench/rollouts.py --json bench/results/rollouts.json

What is timed, and how: engine/pyroclast/train/rollout_speed.py.  Needs the extra [train].
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.train.rollout_speed import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
