"""Pyroclast beside transformers and llama.cpp in float32, for every family and file format.

    python bench/families.py --converter PEER/bin/python --llama PEER/bin/python
        --families gemma2,phi3 --json bench/results/fidelity.json

What is compared, and how: tests/family_fidelity.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels", "tests")]

from family_fidelity import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
