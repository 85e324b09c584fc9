"""What Python costs: wall time per generated token, less the time inside the native step.

    python bench/overhead.py --model smollm2-135m-instruct -n 256 --repeat 5 --json out.json

What is timed, and how: engine/pyroclast/lab/speed/overhead.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.speed.overhead import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
