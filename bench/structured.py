"""What a JSON schema costs a decode step: the matcher's share, and the time beside free text.

    python bench/structured.py --json bench/results/structured.json

What is timed, and how: engine/pyroclast/lab/speed/structured.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.speed.structured import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
