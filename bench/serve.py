"""`pyroclast serve` in turn with llama-server and vLLM, under 1, 8 and 64 clients.

    python bench/serve.py --prompts 110 --clients 1,8 --rounds 1
    python bench/serve.py --llama-server bin/llama-server --vllm PEER/bin/python --json FILE

What is timed, and how: engine/pyroclast/lab/serving/speed.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from pyroclast.lab.serving.serve import main  # noqa: E402

if __name__ == "__main__":
    main(__doc__)
