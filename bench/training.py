"""Trains a model from random weights for 15 minutes, the demo model on examples, and the first one
on preferences; Pyroclast measures each before and after.

    python bench/training.py --out build/training --json bench/results/training.json
    python bench/training.py --out build/demo --minutes 3

What runs, and how: engine/pyroclast/train/demo.py.  Needs the extra [train].
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.train.demo import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
