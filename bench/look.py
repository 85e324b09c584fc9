"""Times the page `look` in Chromium: its first view, a slider, and the first token of a fork.

    python bench/look.py --json bench/results/look.json
    python bench/look.py --model MODEL --chromium /usr/bin/chromium --repeat 5

`pyroclast look` runs as a process of its own.  Needs the extras [server] and [browser].  What is
timed, and how: engine/pyroclast/lab/serving/look.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.serving.look import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
