"""Times generation on the GPU through `LLM`, as users call it: prompts in, tokens out.

A step lasts from the beginning of one forward pass to the beginning of the next, so it includes the
Python between them; that part is also reported alone.  Decoding is timed from the step in which
every sequence decodes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pyroclast import LLM, SamplingParams
from pyroclast.lab.gpu.sizes import know_tiny_shape
from pyroclast.lab.peers.workers.tokens import texts
from pyroclast.lab.speed.throughput_rows import layer_multiply_adds, quartiles
from pyroclast.model.kv_cache import BLOCK_SIZE, block_bytes

_WARM_STEPS = 3  # not counted: the first steps of a batch size compile and record a graph
_PROFILED_STEPS = 24
_LISTED_KERNELS = 12


@dataclass(frozen=True)
class ForwardPass:
    """When a forward pass began and ended, and what its batch held."""

    begin_s: float
    end_s: float
    n_tokens: int
    n_seqs: int


class Engine:
    """One model, loaded once for many requests; every public method is a request."""

    def load(self, model: str, n_blocks: int, max_batch_tokens: int, max_seqs: int) -> Any:
        """Loads the model and generates a few tokens; gives the seconds of both."""
        know_tiny_shape()
        begin = time.perf_counter()
        self.llm = LLM(
            model,
            device="cuda",
            n_blocks=n_blocks,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
            prefix_cache=False,  # a prompt is read in every repetition
        )
        loaded = time.perf_counter()
        self._model = cast(Any, self.llm.model)
        self._passes: list[ForwardPass] = []
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
        pure = [i for i in pure[_WARM_STEPS:] if i - 1 in pure]  # after a step like it
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
        """Prompt tokens per second; each prompt begins with another token."""
        seconds = []
        for salt in range(repetitions + 1):
            steps = self._generate(1, n_prompt, 1, salt)
            seconds.append(steps[-1].end_s - steps[0].begin_s)
        config, (low, median_s, high) = self._model.config, quartiles(seconds[1:])
        products = 2 * layer_multiply_adds(config) * n_prompt
        products += 2 * config.vocab_size * config.d_model
        q_dims = sum(each.q_dim for each in config.attentions.values())
        attention = 2 * q_dims * n_prompt**2
        return [
            {
                "value": n_prompt / median_s,
                "unit": "tokens/s",
                "seconds_quartiles": [low, high],
                "n_samples": repetitions,
                "n_steps": len(steps),
                "gop_s": products / median_s / 1e9,
                "gop_s_with_attention": (products + attention) / median_s / 1e9,
            }
        ]

    def gaps(self, n_depth: int) -> Any:
        """Microseconds that the GPU waits between two steps of one sequence, and the kernels that
        take longest.  The longest waits of n steps are those between the steps."""
        from pyroclast_kernels.gpu.kernel_spans import kernel_spans

        spans = kernel_spans(lambda: self._generate(1, n_depth, _PROFILED_STEPS))
        waits, busy_until = [], spans[0].end_us
        for span in spans[1:]:
            waits.append(max(0.0, span.begin_us - busy_until))
            busy_until = max(busy_until, span.end_us)
        longest = sorted(waits)[-(_PROFILED_STEPS - 1) :]
        return [
            {
                "value": statistics.median(longest),
                "unit": "us",
                "waits_within_us": (sum(waits) - sum(longest)) / _PROFILED_STEPS,
                "kernels_per_step": len(spans) / _PROFILED_STEPS,
                "longest_kernels": _longest_kernels(spans),
            }
        ]

    def breakdown(self, n_batch: int, n_depth: int) -> Any:
        """Microseconds of a decode step, measured call by call between events and without the
        sampler: their sum, and that of each op.  Inside a graph calls follow more closely."""
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
            self._passes.append(ForwardPass(begin, time.perf_counter(), n_tokens, n_seqs))

        return timed

    def _generate(
        self, n_batch: int, n_prompt: int, n_gen: int, salt: int = 0
    ) -> list[ForwardPass]:
        """The forward passes of a greedy generation."""
        ids = texts(n_batch, 0, n_prompt, self.llm.vocab_size, salt).tolist()
        self._passes.clear()
        params = SamplingParams(temperature=0.0, max_tokens=n_gen, ignore_eos=True)
        self.llm.generate(ids, params, progress=False)
        return list(self._passes)


def _longest_kernels(spans: Sequence[Any]) -> dict[str, list[float]]:
    """Kernel name -> (microseconds of one run, runs), for those that take longest in all."""
    found: dict[str, tuple[float, int]] = {}
    for span in spans:
        took, n = found.get(span.name, (0.0, 0))
        found[span.name] = took + span.end_us - span.begin_us, n + 1
    top = sorted(found.items(), key=lambda item: -item[1][0])[:_LISTED_KERNELS]
    return {name[:60]: [us / n, n] for name, (us, n) in top}
