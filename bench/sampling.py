"""Times `sample` and `softmax` with a vocabulary of 128,256 against NumPy and others, in turn.

    python bench/sampling.py --out bench/results/sampling.json
    python bench/sampling.py --llama-site PEER/lib/python3.11/site-packages   (has llama_cpp)

What the contenders do: engine/pyroclast/lab/speed/sampling.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.speed.sampling import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
