"""Loads a server with twice as many clients as it has slots, some of which misbehave, for 30
minutes.

    python bench/soak.py --minutes 30 --json bench/results/soak.json

What is asked of it, and what is checked: engine/pyroclast/lab/serving/soak.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.serving.soak import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
