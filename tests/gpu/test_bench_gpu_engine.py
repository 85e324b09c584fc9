"""bench/gpu.sh: what its workers measure of an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pyroclast.checkpoint.dummy import SHAPES
from pyroclast.families.registry import config_of
from pyroclast.lab.gpu import engine as gpu_engine
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.gpu import kernel_spans
from pyroclast_kernels.gpu.kernel_spans import KernelSpan


class PlayedModel:
    """A model whose forward passes take a millisecond of a clock of their own."""

    def __init__(self, clock: list[float]) -> None:
        self.batch, self.clock = SimpleNamespace(counts=np.zeros(3, np.int64)), clock
        self.weight_bytes, self.kv_dtype, self.kernels = 1_000_000, "f16", {}
        self.config = config_of(SHAPES["smollm2-135m"])

    def forward(self, sample: bool = False) -> None:
        self.clock[0] += 0.001

    def profile(self) -> Any:
        return [
            ("layer 0", "matmul.bf16", "triton", 5.0),
            ("layer 0", "norm.f32", "triton", 9.0),
            ("layer 1", "matmul.bf16", "triton", 7.0),
        ]


class PlayedLLM:
    """Reads prompts one after the other, then decodes all; 100 us of Python between two steps."""

    vocab_size = 49152

    def __init__(self, clock: list[float]) -> None:
        self.model, self.clock, self.kernels = PlayedModel(clock), clock, {}

    def generate(self, prompts: Any, params: Any, progress: bool) -> None:
        assert params.temperature == 0 and params.ignore_eos and not progress
        for n_done in range(len(prompts)):
            self._step(len(prompts[n_done]) + n_done, n_done + 1)
        for _ in range(params.max_tokens - 1):
            self._step(len(prompts), len(prompts))

    def _step(self, n_tokens: int, n_seqs: int) -> None:
        self.clock[0] += 0.0001
        self.model.batch.counts[:] = n_tokens, n_seqs, n_seqs
        self.model.forward(sample=True)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = [0.0]
    monkeypatch.setattr(gpu_engine, "LLM", lambda model, **options: PlayedLLM(clock))
    monkeypatch.setattr(gpu_engine.time, "perf_counter", lambda: clock[0])
    found = gpu_engine.Engine()
    found.load("dummy:smollm2-135m@bf16", 100, 512, 8)
    return found


def test_decoding_counts_steps_in_which_all_decode(engine: Any) -> None:
    [row] = engine.decode(4, 10, 20)
    assert row["step_us"] == pytest.approx(1100) and row["between_us"] == pytest.approx(100)
    assert row["value"] == pytest.approx(4 / 0.0011)
    kv_bytes = 4 * (10 + 10) * 2 * 30 * 3 * 64 * 2  # sequences, positions, k and v, layers, heads
    assert row["n_bytes"] == 1_000_000 + kv_bytes
    assert row["gb_s"] == pytest.approx(row["n_bytes"] / 0.0011 / 1e9)


def test_a_prompt_counts_from_its_first_pass_to_the_end_of_its_last(engine: Any) -> None:
    [row] = engine.prefill(64, 3)
    assert row["value"] == pytest.approx(64 / 0.001) and row["n_samples"] == 3
    assert row["seconds_quartiles"] == pytest.approx([0.001, 0.001])
    products = 30 * (576 * 576 * 2 + 2 * 576 * 192 + 3 * 576 * 1536) * 64 + 49152 * 576
    assert row["gop_s"] == pytest.approx(2 * products / 0.001 / 1e9)
    assert row["gop_s_with_attention"] > row["gop_s"]


def test_the_ops_of_a_step_add_up(engine: Any) -> None:
    [row] = engine.breakdown(2, 10)
    assert row["value"] == 21.0
    assert list(row["ops_us"].items()) == [("matmul.bf16", 12.0), ("norm.f32", 9.0)]


def test_gaps_are_the_longest_waits(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 steps of two kernels: 1 us between the kernels of a step, 30 us between steps."""
    spans, now = [], 0.0
    for _ in range(24):
        for took, wait in ((5.0, 1.0), (3.0, 30.0)):
            spans.append(KernelSpan("k", now, now + took))
            now += took + wait
    seen = []
    monkeypatch.setattr(kernel_spans, "kernel_spans", lambda run: seen.append(run) or spans)
    [row] = engine.gaps(10)
    assert (row["value"], row["waits_within_us"], row["kernels_per_step"]) == (30.0, 1.0, 2.0)
    assert row["longest_kernels"] == {"k": [4.0, 48]}
    engine._passes.clear()
    seen[0]()
    assert len(engine._passes) == 24


def test_without_a_gpu_nothing_is_profiled() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(KernelError, match="there is no GPU to profile"):
        kernel_spans.kernel_spans(lambda: pytest.fail("it ran"))


def test_the_longest_kernels_are_those_of_all_their_runs() -> None:
    spans = [SimpleNamespace(name="a", begin_us=0.0, end_us=3.0)]
    spans += [SimpleNamespace(name="b" * 80, begin_us=t, end_us=t + 2) for t in (4.0, 7.0)]
    assert gpu_engine._longest_kernels(spans) == {"b" * 60: [2.0, 2], "a": [3.0, 1]}
