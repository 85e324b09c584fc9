"""GRPO with exact and with quantized rollouts, side by side: reward, and how far off policy.

    python bench/on_policy.py --out build/on-policy --json bench/results/on_policy.json

What runs, and how: engine/pyroclast/train/rollout_study.py.  Needs the extra [train].
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.train.rollout_study import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
