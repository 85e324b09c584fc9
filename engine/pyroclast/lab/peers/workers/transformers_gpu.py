"""Worker for transformers on a GPU in its fastest setting: a static cache and a compiled step.

The weights are random, in BF16, made on the device.  A step is the model's forward and the choice
of the likeliest token, compiled together with mode="reduce-overhead" (CUDA graphs); nothing is
detokenized.  Without a GPU the same code runs on the CPU, traced and not compiled, which only shows
that it works.
"""

import statistics
import time
from typing import Any

import torch
import transformers
from protocol import serve
from tokens import texts
from transformers import AutoConfig, AutoModelForCausalLM, StaticCache

_WARM_STEPS = 5  # the first compiles, the second records a graph
_WORDS = 300  # of an error
_WAIT_EVERY = 16  # at most so many steps are enqueued ahead


class Worker:
    """One model; every public method is a request."""

    def load(self, config: dict[str, Any]) -> Any:
        """Makes the model of a config as in config.json."""
        begin = time.perf_counter()
        torch.set_grad_enabled(False)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        made = AutoConfig.for_model(**config)
        with torch.device(self.device):
            self.model = AutoModelForCausalLM.from_config(
                made, dtype=torch.bfloat16, attn_implementation="sdpa"
            ).eval()
        how = {"mode": "reduce-overhead"} if self.device.type == "cuda" else {"backend": "eager"}
        self.step, self.how = torch.compile(self._step, fullgraph=True, **how), str(how)
        return [
            {
                "value": time.perf_counter() - begin,
                "unit": "s",
                "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
                "weight_bytes": sum(p.nbytes for p in self.model.parameters()),
            }
        ]

    def prepare(self, n_batch: int, n_depth: int, n_gen: int) -> Any:
        """Reads the prompts and takes the first steps, which compile; gives the seconds.  Where
        compiling fails, the step runs uncompiled, and the answer says so."""
        begin, reason = time.perf_counter(), ""
        try:
            self._prepare(n_batch, n_depth, n_gen)
        except RuntimeError as error:  # of which all errors of torch.compile are
            reason = f"not compiled: {error}"[:_WORDS]
            self.step, self.how = self._step, "not compiled"
            self._prepare(n_batch, n_depth, n_gen)
        seconds = time.perf_counter() - begin
        return [{"value": seconds, "unit": "s", "how": self.how, "reason": reason}]

    def _prepare(self, n_batch: int, n_depth: int, n_gen: int) -> None:
        length = n_depth + n_gen + _WARM_STEPS
        self.cache = StaticCache(config=self.model.config, max_cache_len=length)
        ids = torch.from_numpy(texts(n_batch, 0, n_depth, self.model.config.vocab_size).copy())
        out = self.model(ids.to(self.device), past_key_values=self.cache, use_cache=True)
        self.token = out.logits[:, -1:].argmax(dim=-1)
        self.position = torch.tensor([[n_depth]], device=self.device)
        self._run(_WARM_STEPS)

    def decode(self, n_batch: int, n_depth: int, n_gen: int) -> Any:
        """Tokens per second after `prepare`: the median over runs of steps without a wait."""
        seconds = []
        for first in range(0, n_gen, _WAIT_EVERY):
            n_steps = min(_WAIT_EVERY, n_gen - first)
            begin = time.perf_counter()
            self._run(n_steps)
            seconds.append((time.perf_counter() - begin) / n_steps)
        step_s = statistics.median(seconds)
        return [
            {
                "value": n_batch / step_s,
                "unit": "tokens/s",
                "step_us": 1e6 * step_s,
                "n_batch": n_batch,
                "n_depth": n_depth,
                "n_steps": n_gen,
                "how": self.how,
            }
        ]

    def _step(self, token: Any, position: Any, cache: Any) -> Any:
        out = self.model(token, position_ids=position, past_key_values=cache, use_cache=True)
        return out.logits[:, -1:].argmax(dim=-1)

    def _run(self, n_steps: int) -> None:
        """Takes n_steps and waits for the last one."""
        for _ in range(n_steps):
            # A graph's output is overwritten by its next replay.
            self.token = self.step(self.token, self.position, self.cache).clone()
            self.position.add_(1)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


if __name__ == "__main__":
    worker = Worker()
    serve({name: getattr(worker, name) for name in ("load", "prepare", "decode")})
