"""Builds, tests and measures on a machine with a GPU, in ten minutes: see bench/gpu.sh.

    bench/gpu.sh                               everything, to bench/results/gpu_local.json
    bench/gpu.sh --quick --minutes 4           the largest model, and kernels with a target
    bench/gpu.sh --only "8B BF16,kernels"      these parts and the ceilings
    bench/gpu.sh --dry-run                     tiny shapes in Triton's interpreter: does it all run?

What is measured, in which order, and the targets: engine/pyroclast/lab/gpu/parts.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.gpu.command import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__, ROOT)
