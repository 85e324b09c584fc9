"""What speculation brings on four tasks and on a text that is copied in part, and what it costs.

    python bench/speculation.py --json bench/results/speculation.json
    python bench/speculation.py --part draft --model big.gguf --draft small.gguf
    python bench/speculation.py --part costs --model dummy:llama-3.2-1b@q4_0 --depth 100

What is timed, and how: engine/pyroclast/lab/speed/speculation.py and verify_costs.py there.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.speed.speculation import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
