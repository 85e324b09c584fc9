"""Times Pyroclast and other engines in turn (A B A B) on the same weights, in one run.

    python bench/engine.py -p 512 -n 128
    python bench/engine.py --model dummy:llama-3.2-1b --format q8_0,q4_0 --peers ENVIRONMENTS
    python bench/engine.py --peer llama.cpp=PEER/bin/python --json bench/results/NAME.json
    python bench/engine.py --suite cpu --minutes 40 --peers ENVIRONMENTS --out FILE.json

PEER/bin/python is any Python that has the peer's package; of ik_llama.cpp it is the program
llama-bench.  --peers takes all engines that it finds in ENVIRONMENTS/llama, /ik_llama, /openvino,
/ctranslate2 and /transformers, or in this Python, and names those that are missing.  --suite runs a
fixed list of such comparisons.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.peers.comparison import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
