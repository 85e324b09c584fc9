"""Worker for ik_llama.cpp, through its program llama-bench, which PEER_PROGRAM names.

Each run starts the program, which loads the file, reads the prompt or decodes twice, and prints its
own times; the second counts.  It has no batches and reads no prompt at a depth.  It feeds random
tokens, so nothing is known of its logits.
"""

import json
import os
import subprocess
from typing import Any

from protocol import serve

PROGRAM = "PEER_PROGRAM"
STEP_TOKENS = 512
LAST_WORDS = 300


class Worker:
    """One model; every request is a method."""

    def load(
        self, model: str, workloads: list[dict[str, Any]], threads: int, repack: bool
    ) -> dict[str, Any]:
        """Decodes one token of a GGUF file; says which build it was."""
        del workloads  # each run makes its own context
        self.options = ["-m", model, "-t", str(threads), "-rtr", str(int(repack)), "-fa", "1"]
        found = self._bench(["-p", "0", "-n", "1"])
        version = f"ik_llama.cpp {found['build_commit']} ({found['build_number']})"
        return {"version": version, "flash_attention": found["flash_attn"], "logits": "unknown"}

    def run(self, workload: dict[str, Any]) -> float:
        """Seconds of one repetition."""
        depth, n_prompt, n_gen = (workload[f"n_{name}"] for name in ("depth", "prompt", "gen"))
        if workload["n_batch"] > 1:
            raise RuntimeError("its llama-bench runs one sequence")
        if depth and n_prompt:
            raise RuntimeError("its llama-bench reads prompts at the beginning only")
        test = ["-p", str(n_prompt), "-n", str(n_gen)]
        if depth:
            test = ["-p", "0", "-n", "0", "-gp", f"{depth},{n_gen}"]
        return float(self._bench(test)["samples_ns"][-1]) / 1e9

    def logits(self) -> None:
        """It prints none."""

    def _bench(self, test: list[str]) -> dict[str, Any]:
        """What the program prints about one test."""
        steps = ["-b", str(STEP_TOKENS), "-ub", str(STEP_TOKENS), "-r", "2", "-o", "json"]
        command = [os.environ[PROGRAM], *self.options, *steps, *test]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            words = done.stderr.strip()[-LAST_WORDS:]
            raise RuntimeError(f"llama-bench ended with code {done.returncode}: {words}")
        _, bracket, rows = done.stdout.rpartition("\n[")  # some models make it print before
        [found] = json.loads(bracket + rows)
        return dict(found)


if __name__ == "__main__":
    worker = Worker()
    serve({name: getattr(worker, name) for name in ("load", "run", "logits")})
