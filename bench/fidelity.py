"""KL divergence from float32 of each weight format: Pyroclast's beside llama.cpp's, on one file.

    python bench/fidelity.py --peers ENVIRONMENTS --json bench/results/fidelity.json

What is timed, and how: engine/pyroclast/lab/peers/fidelity.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.peers.fidelity import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
