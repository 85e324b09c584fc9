"""Cold start: `import pyroclast` and `generate -n 1`, from the start of a process to its exit.

    python bench/cold_start.py --runs 15 --json bench/results/cold_start.json

What is timed, and how: engine/pyroclast/lab/speed/cold_start.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.speed.cold_start import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
