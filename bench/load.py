"""Load time from a warm page cache and peak memory: Pyroclast and other engines in turn.

    python bench/load.py --model dummy:llama-3.2-1b --format q8_0 --peers ENVIRONMENTS

What is timed, and how: engine/pyroclast/lab/peers/load.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.peers.load import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
