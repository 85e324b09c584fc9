"""Worker for OpenVINO GenAI, through its LLMPipeline, which reads GGUF files.

It has two backends: "paged" (its default: continuous batching, keys and values in 8 bits unless
told otherwise) and "stateful" (which keeps no prompt, so it has no rows at a depth).  Its own
clock is read: from the call to the first token, and from the first token to the last.  Tokenization
and text are not timed.  Its greedy choice of a token is, since it offers no logits.  It decodes the
tokens that it chose, not ours.
"""

import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from protocol import serve
from tokens import texts

STEP_TOKENS = 512
BLOCK_TOKENS = 32  # of its cache on the CPU
SALT = 13


class Worker:
    """One model; every request is a method."""

    def load(
        self, model: str, workloads: list[dict[str, Any]], threads: int, backend: str
    ) -> dict[str, Any]:
        """Loads a GGUF file; says what read it."""
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if backend == "paged":
            options["scheduler_config"] = self._scheduler(workloads)
        else:
            options["ATTENTION_BACKEND"] = "SDPA"
        self.backend = backend
        self.pipeline = genai.LLMPipeline(model, "CPU", **options)
        self.vocab_size = len(self.pipeline.get_tokenizer().get_vocab())
        self.n_runs: dict[str, int] = {}
        self.token: int | None = None
        return {"version": f"openvino-genai {genai.__version__}", "openvino": ov.__version__}

    def run(self, workload: dict[str, Any]) -> float:
        """Seconds of one repetition."""
        n_seqs, depth, n_gen = workload["n_batch"], workload["n_depth"], workload["n_gen"]
        if depth and self.backend != "paged":
            raise RuntimeError("this backend forgets a prompt when it has answered it")
        # It would find a prompt that it has read before in its cache, so each run has another one.
        # The first run has ours.
        key = str(workload)
        salt = SALT * self.n_runs.get(key, 0)
        self.n_runs[key] = self.n_runs.get(key, 0) + 1
        context = texts(n_seqs, 0, depth, self.vocab_size)
        if n_gen:
            prompt = context if depth else texts(n_seqs, 0, 1, self.vocab_size)
            times = self._generate(prompt, n_gen + 1)[1]
            self.token = None
            return float(times[-1] - times[0]) / 1e3
        if depth:
            self._generate(context, 1)  # into its prefix cache, unless it is there
        question = texts(n_seqs, depth, depth + workload["n_prompt"], self.vocab_size, salt)
        prompt = np.concatenate([context, question], axis=1)
        start = time.perf_counter()
        tokens, _ = self._generate(prompt, 1)
        seconds = time.perf_counter() - start
        self.token = tokens[-1][0] if salt == 0 else None
        return seconds

    def logits(self) -> int | None:
        """It offers none: the likeliest token after the last run, if that read our prompt."""
        return self.token

    def _scheduler(self, workloads: list[dict[str, Any]]) -> Any:
        blocks = [
            w["n_batch"] * -(-(w["n_depth"] + w["n_prompt"] + w["n_gen"] + 1) // BLOCK_TOKENS)
            for w in workloads
        ]
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = STEP_TOKENS
        scheduler.num_kv_blocks = 2 * max(blocks) + 16
        scheduler.enable_prefix_caching = any(w["n_depth"] for w in workloads)
        return scheduler

    def _generate(self, ids: Any, n_tokens: int) -> tuple[list[list[int]], Any]:
        """(Tokens of each sequence, when each of the first one came, in milliseconds)."""
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = n_tokens
        config.ignore_eos, config.do_sample = True, False
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        found = self.pipeline.generate(inputs, config)
        times = found.perf_metrics.raw_metrics.m_new_token_times
        if [len(tokens) for tokens in found.tokens] != [n_tokens] * len(ids):
            raise RuntimeError(f"{n_tokens} tokens were asked for, not {found.tokens}")
        return found.tokens, times


if __name__ == "__main__":
    worker = Worker()
    serve({name: getattr(worker, name) for name in ("load", "run", "logits")})
