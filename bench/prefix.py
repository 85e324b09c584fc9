"""The time to the first token of a prompt that is cached, beside one that is not.

    python bench/prefix.py --model smollm2-135m-instruct -p 2032 --json bench/results/prefix.json
    python bench/prefix.py --model dummy:llama-3.2-1b@q4_0 --disk 2016 --disk 4016

What is timed, and how: engine/pyroclast/lab/speed/prefix.py, and disk_prefix.py there.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.speed.prefix import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
