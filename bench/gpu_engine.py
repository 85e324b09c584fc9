"""Times generation on the GPU through `LLM`, as its users call it: prompts in, tokens out.

A step's time is the time from one forward pass to the next, whatever lies between; what lies
between is told, too.  Steps are counted once every sequence decodes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpu_sizes import know_tiny_shape
from peers.tokens import texts
from pyroclast import LLM, SamplingParams
from pyroclast.lab.speed.throughput_rows import layer_multiply_adds
from pyroclast.model.kv_cache import BLOCK_SIZE, block_bytes

_WARM_STEPS = 3  # not counted: a batch size is new to its kernels, and is recorded
_PROFILED_STEPS = 24


@dataclass(frozen=True)
class Step:
    """One forward pass: when it began and ended, and what it held."""

    begin_s: float
    end_s: float
    n_tokens: int
    n_seqs: int


class Engine:
    """One model, loaded once for many requests; every public method is a request."""

    def load(self, model: str, n_blocks: int, max_batch_tokens: int, max_seqs: int) -> Any:
        """Loads, and makes a few tokens; seconds of both."""
        know_tiny_shape()
        begin = time.perf_counter()
        self.llm = LLM(
            model,
            device="cuda",
            n_blocks=n_blocks,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
        )
        loaded = time.perf_counter()
        self._model: Any = self.llm.model
        self._steps: list[Step] = []
        self._model.forward = self._watched(self._model.forward)
        self._generate(1, 8, 4)
        seconds = time.perf_counter() - begin
        return [
            {
                "value": seconds,
                "unit": "s",
                "load_s": loaded - begin,
                "first_tokens_s": seconds - (loaded - begin),
                "weight_bytes": self._model.weight_bytes,
                "kernels": self.llm.kernels,
                "kv_dtype": self._model.kv_dtype,
            }
        ]

    def decode(self, n_batch: int, n_depth: int, n_gen: int) -> Any:
        """Tokens per second of n_batch sequences that hold n_depth tokens each."""
        steps = self._generate(n_batch, n_depth, n_gen + _WARM_STEPS)
        pure = [i for i, s in enumerate(steps) if (s.n_tokens, s.n_seqs) == (n_batch, n_batch)]
        pure = [i for i in pure[_WARM_STEPS:] if i - 1 in pure]  # whose predecessor is alike
        if len(pure) < 2:
            raise RuntimeError(f"{len(pure)} steps in which all {n_batch} decode are too few")
        took = [steps[i].begin_s - steps[i - 1].begin_s for i in pure]
        between = [steps[i].begin_s - steps[i - 1].end_s for i in pure]
        step_s = statistics.median(took)
        seen = n_depth + n_gen // 2
        position_bytes = block_bytes(self._model.config, self._model.kv_dtype) / BLOCK_SIZE
        n_bytes = int(self._model.weight_bytes + n_batch * seen * position_bytes)
        low, _, high = statistics.quantiles(took, n=4)
        return [
            {
                "value": n_batch / step_s,
                "unit": "tokens/s",
                "step_us": 1e6 * step_s,
                "step_quartiles_us": [1e6 * low, 1e6 * high],
                "between_us": 1e6 * statistics.median(between),
                "n_steps": len(took),
                "n_batch": n_batch,
                "n_depth": n_depth,
                "n_bytes": n_bytes,
                "gb_s": n_bytes / step_s / 1e9,
            }
        ]

    def prefill(self, n_prompt: int, repetitions: int) -> Any:
        """Prompt tokens per second; a prompt begins with a token of its own each time."""
        seconds = []
        for salt in range(repetitions + 1):
            steps = self._generate(1, n_prompt, 1, salt)
            seconds.append(steps[-1].end_s - steps[0].begin_s)
        config, best = self._model.config, statistics.median(seconds[1:])
        products = 2 * layer_multiply_adds(config) * n_prompt
        products += 2 * config.vocab_size * config.d_model
        q_dims = sum(spec.attention.q_dim for spec in config.layers)
        attention = 2 * q_dims * n_prompt**2
        return [
            {
                "value": n_prompt / best,
                "unit": "tokens/s",
                "seconds": seconds,
                "n_steps": len(steps),
                "gop_s": products / best / 1e9,
                "gop_s_with_attention": (products + attention) / best / 1e9,
            }
        ]

    def gaps(self, n_depth: int) -> Any:
        """Microseconds that the GPU waits between two steps of one sequence, and which kernels it
        spends a step in, as CUPTI tells.  The longest waits of n steps are those between them."""
        import torch
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        if not torch.cuda.is_available():
            raise RuntimeError("there is no GPU to wait")
        self._generate(1, n_depth, _PROFILED_STEPS)
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            self._generate(1, n_depth, _PROFILED_STEPS)
        spans, per_kernel = [], {}
        for event in profiler.events():
            if event.device_type == DeviceType.CUDA:
                spans.append((event.time_range.start, event.time_range.end))
                took, n = per_kernel.get(event.name, (0.0, 0))
                per_kernel[event.name] = took + event.time_range.elapsed_us(), n + 1
        if not spans:
            raise RuntimeError("the profiler saw nothing on a GPU")
        spans.sort()
        waits, busy_until = [], spans[0][1]
        for start, end in spans[1:]:
            waits.append(max(0.0, start - busy_until))
            busy_until = max(busy_until, end)
        longest = sorted(waits)[-(_PROFILED_STEPS - 1) :]
        top = sorted(per_kernel.items(), key=lambda item: -item[1][0])[:12]
        return [
            {
                "value": statistics.median(longest),
                "unit": "us",
                "waits_within_us": (sum(waits) - sum(longest)) / _PROFILED_STEPS,
                "kernels_per_step": len(spans) / _PROFILED_STEPS,
                "longest_kernels": {name[:60]: [us / n, n] for name, (us, n) in top},
            }
        ]

    def breakdown(self, n_batch: int, n_depth: int) -> Any:
        """Microseconds of a decode step, call by call between events and without the sampler: the
        sum, and that of each op.  Inside a graph they follow each other more closely."""
        self._generate(n_batch, n_depth, 2)
        per_op: dict[str, float] = {}
        for _, op, _, us in self._model.profile():
            per_op[op] = per_op.get(op, 0.0) + us
        longest = sorted(per_op.items(), key=lambda item: -item[1])
        return [{"value": sum(per_op.values()), "unit": "us", "ops_us": dict(longest)}]

    def _watched(self, forward: Callable[..., None]) -> Callable[..., None]:
        def timed(*args: Any, **kwargs: Any) -> None:
            n_tokens, n_seqs, _ = self._model.batch.counts.tolist()
            begin = time.perf_counter()
            forward(*args, **kwargs)
            self._steps.append(Step(begin, time.perf_counter(), n_tokens, n_seqs))

        return timed

    def _generate(self, n_batch: int, n_prompt: int, n_gen: int, salt: int = 0) -> list[Step]:
        """The steps of a greedy generation."""
        ids = texts(n_batch, 0, n_prompt, self.llm.vocab_size, salt).tolist()
        self._steps.clear()
        params = SamplingParams(temperature=0.0, max_tokens=n_gen, ignore_eos=True)
        self.llm.generate(ids, params, progress=False)
        return list(self._steps)
