"""`LLM.generate` in a process of its own: what the server is compared with.

    python -m pyroclast.lab.serving.in_process

Reads one JSON object a line: first {"model", "threads", "max_seqs"}, then {"prompts", "n_gen"},
each answered with {"seconds": of the call}.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter

from pyroclast import LLM, SamplingParams


def main() -> None:
    """Answers until standard input ends."""
    options = json.loads(sys.stdin.readline())
    model, threads, max_seqs = (options[key] for key in ("model", "threads", "max_seqs"))
    with LLM(
        model, threads=threads, max_seqs=max_seqs, prefix_cache=False, speculation="off"
    ) as llm:
        for line in sys.stdin:
            asked = json.loads(line)
            params = SamplingParams(temperature=0.0, max_tokens=asked["n_gen"], ignore_eos=True)
            start_s = perf_counter()
            llm.generate(asked["prompts"], params, progress=False)
            sys.stdout.write(json.dumps({"seconds": perf_counter() - start_s}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
