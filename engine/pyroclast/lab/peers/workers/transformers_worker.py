"""Worker for transformers on torch: the model's forward, with a dynamic cache.

Attention by torch's scaled_dot_product_attention; no torch.compile.  Logits of the last token of
each sequence; no sampling.  Prompts are read in steps of 512 tokens of each sequence.
"""

import time
from typing import Any

import torch
import transformers
from protocol import serve
from tokens import texts
from transformers import AutoModelForCausalLM, DynamicCache

STEP_TOKENS = 512


class Worker:
    """One model; every request is a method."""

    def load(
        self, model: str, workloads: list[dict[str, Any]], threads: int, dtype: str
    ) -> dict[str, Any]:
        """Loads a folder; says what computes it."""
        del workloads  # its cache grows as it goes
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.model = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).eval()
        # n_batch -> a cache and how many positions of each sequence it holds
        self.caches: dict[int, DynamicCache] = {}
        return {
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "dtype": dtype,
        }

    def run(self, workload: dict[str, Any]) -> float:
        """Seconds of one repetition."""
        n_seqs, depth = workload["n_batch"], workload["n_depth"]
        end = depth + workload["n_prompt"] + workload["n_gen"]
        cache = self.caches.get(n_seqs)
        if cache is None or not depth or cache.get_seq_length() < depth:
            cache = self.caches[n_seqs] = DynamicCache(config=self.model.config)
            self._read(cache, texts(n_seqs, 0, depth, self.model.config.vocab_size), STEP_TOKENS)
        else:
            cache.crop(-(cache.get_seq_length() - depth))  # it takes how many to forget
        ids = texts(n_seqs, depth, end, self.model.config.vocab_size)
        start = time.perf_counter()
        self._read(cache, ids, STEP_TOKENS if workload["n_prompt"] else 1)
        return time.perf_counter() - start

    def logits(self) -> list[float]:
        """After the last run, of the last token of the last sequence."""
        found: list[float] = self.last[-1, -1].float().tolist()
        return found

    def _read(self, cache: DynamicCache, ids: Any, step: int) -> None:
        for begin in range(0, ids.shape[1], step):
            rows = torch.from_numpy(ids[:, begin : begin + step].copy())
            out = self.model(rows, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self.last = out.logits


if __name__ == "__main__":
    worker = Worker()
    serve({name: getattr(worker, name) for name in ("load", "run", "logits")})
