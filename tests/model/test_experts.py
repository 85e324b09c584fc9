"""Layers with experts: every expert is used, bits depend on nothing but the text, and what goes
wrong is said.  What they compute, tests/families/ compares with transformers and llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_experts
from pyroclast import LLM, SamplingParams
from pyroclast.errors import NumericalError, RequestError, UnsupportedModelError
from pyroclast.model.adapters import AdapterSlots
from pyroclast.model.inspect import inspect_step
from stepping import Span, load, logits_of, step

RNG = np.random.default_rng(3)
TOKENS = RNG.integers(0, 256, 200).tolist()
OTHER = RNG.integers(0, 256, 90).tolist()
GREEDY = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=2)
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("F32", {"compute": "float32"}),
    ("Q8_0", {}),
    ("Q4_0", {"kv_dtype": "q8_0"}),
    ("BF16", {}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experts")


def path_of(folder: Path, quant: str) -> Path:
    path = folder / f"{quant}.gguf"
    return path if path.exists() else tiny_experts.write_gguf(path, tiny_experts.weights(), quant)


def test_the_router_decides_and_every_expert_is_used(folder: Path) -> None:
    model = load(path_of(folder, "F32"), compute="float32")
    logits_of(model, TOKENS)
    call = next(c for c in reversed(model.program().calls) if c.kernel.op == "route")
    logits, chosen = call.arguments["logits"][:200], call.arguments["experts"][:200]
    np.testing.assert_array_equal(chosen, np.argsort(-logits, axis=1, kind="stable")[:, :3])
    gates = call.arguments["gates"][:200]
    np.testing.assert_allclose(gates.sum(axis=1), 1, rtol=1e-6)
    assert np.unique(chosen).tolist() == list(range(12))
    starts = next(c for c in reversed(model.program().calls) if c.kernel.op == "group")
    counts = np.diff(starts.arguments["starts"])
    assert counts.tolist() == np.bincount(chosen.ravel(), minlength=12).tolist()


@pytest.mark.parametrize(("quant", "options"), KINDS)
def test_bits_depend_on_neither_neighbours_chunks_nor_threads(
    folder: Path, quant: str, options: dict[str, Any]
) -> None:
    path = path_of(folder, quant)
    alone = logits_of(load(path, threads=1, **options), TOKENS)
    model = load(path, threads=2, **options)
    np.testing.assert_array_equal(logits_of(model, TOKENS), alone)
    for size in (1, 7, 64):
        chunks = [
            step(model, [(1, first, TOKENS[first : first + size])])[0]
            for first in range(0, len(TOKENS), size)
        ]
        np.testing.assert_array_equal(np.concatenate(chunks), alone, err_msg=f"chunks of {size}")
    spans: list[Span] = [(2, 0, OTHER[:40]), (3, 0, TOKENS[:150]), (4, 0, OTHER[:1])]
    np.testing.assert_array_equal(step(model, spans)[1], alone[:150])


@pytest.mark.parametrize("quant", ["F32", "Q8_0"])
def test_bits_survive_preemption_and_a_prefix_hit(folder: Path, quant: str) -> None:
    path, prompts = path_of(folder, quant), [TOKENS[:100], OTHER[:60], TOKENS[3:63]]

    def answers(llm: LLM, given: list[list[int]]) -> list[Any]:
        return [(c.token_ids, c.logprobs) for c in llm.generate(given, GREEDY)]

    with LLM(path, prefix_cache=False) as llm:
        alone = [answers(llm, [prompt])[0] for prompt in prompts]
    # Two sequences of two blocks each need a third one later, and there are five.
    with LLM(path, n_blocks=5, max_batch_tokens=48, threads=2, prefix_cache=False) as llm:
        assert answers(llm, prompts[1:]) == alone[1:]
        assert llm._loop.stepper.scheduler.n_preemptions > 0
    with LLM(path, max_batch_tokens=40) as llm:
        llm.generate([TOKENS], SamplingParams(max_tokens=1))
        [found] = llm.generate([prompts[0]], GREEDY)
        assert found.timings.n_cached_tokens == 99
        assert (found.token_ids, found.logprobs) == alone[0]


@pytest.mark.parametrize("compute", ["float32", "quantized"])
def test_native_kernels_equal_the_numpy_reference(folder: Path, compute: str) -> None:
    path = path_of(folder, "Q8_0")
    options: dict[str, Any] = {"compute": compute} if compute == "float32" else {}
    want = logits_of(load(path, kernels="*=numpy", **options), TOKENS[:60])
    got = logits_of(load(path, **options), TOKENS[:60])
    # Activations rounded to 8 bits may round otherwise, and a near tie may choose another expert.
    bound = 1e-4 if compute == "float32" else 0.05
    assert np.median(np.abs(got - want).max(axis=1)) < bound * np.abs(want).max()


def test_a_step_of_one_token_reads_the_active_experts_only(folder: Path) -> None:
    model = load(path_of(folder, "Q8_0"))
    layers, weights = model._weights.layers, model._weights
    experts = sum(
        p.weight.n_bytes for each in layers for p in (*each.expert_gate_up, *each.expert_down)
    )
    others = sum(p.weight.n_bytes for each in layers for p in (*each.qkv, *each.wo, *each.router))
    assert weights.step_bytes == others + weights.output.n_bytes + experts // 4


def test_an_inspection_adds_up(folder: Path) -> None:
    model = load(path_of(folder, "F32"), compute="float32", max_batch_tokens=64)
    found, before = inspect_step(model, TOKENS[:80]), None
    for i in range(3):
        layer = found.layers[i]
        before = found.embedding if before is None else before
        total = before + layer.from_attention + layer.from_feed_forward
        np.testing.assert_allclose(layer.state, total, atol=1e-5)
        assert np.abs(layer.from_feed_forward).mean() > 0.01
        before = layer.state


def test_a_nan_in_a_router_is_named(tmp_path: Path) -> None:
    weights = tiny_experts.weights()
    weights["layers.1.w_router"][5, 7] = np.nan
    path = tiny_experts.write_gguf(tmp_path / "nan.gguf", weights)
    with LLM(path) as llm, pytest.raises(NumericalError, match=r"first in layer 1 \(matmul\)"):
        llm.generate([TOKENS[:30]], GREEDY)


def test_a_nan_in_one_expert_is_named_where_it_is_used(tmp_path: Path) -> None:
    weights = tiny_experts.weights()
    weights["layers.2.w_down_experts"][:, 3, 3] = np.inf
    path = tiny_experts.write_gguf(tmp_path / "inf.gguf", weights)
    with LLM(path) as llm, pytest.raises(NumericalError, match=r"layer 2 \(expert_down\)"):
        llm.generate([TOKENS[:30]], GREEDY)


def test_adapters_change_attention_but_no_expert(folder: Path) -> None:
    model = load(path_of(folder, "F32"), adapters=AdapterSlots(1, 2))
    a, b = RNG.standard_normal((1, 64)), RNG.standard_normal((128, 1))
    plain = logits_of(model, TOKENS[:20])
    model.adapters.set(0, {"layers.1.wq": (a, b)}, 1.0)
    model.adapters.assign([0])
    model.forward()
    assert np.abs(model.logits[:20] - plain).max() > 0
    with pytest.raises(RequestError, match=r"'layers\.0\.w_up', but that layer has experts"):
        model.adapters.set(0, {"layers.0.w_up": (a, np.zeros((32, 1)))}, 1.0)


def test_gate_and_up_of_different_types_need_float32(tmp_path: Path) -> None:
    from pyroclast.checkpoint.open import open_checkpoint
    from pyroclast.checkpoint.tensor import converted
    from pyroclast.model.model import load_model

    path = tiny_experts.write_gguf(tmp_path / "m.gguf", tiny_experts.weights(), "Q8_0")
    with open_checkpoint(path) as checkpoint:
        name = "layers.1.w_up_experts"
        checkpoint.tensors[name] = converted(checkpoint.tensors[name], "q4_0")
        with pytest.raises(UnsupportedModelError, match="different types, q4_0 and q8_0"):
            load_model(checkpoint)
        found = logits_of(load_model(checkpoint, compute="float32"), TOKENS[:20])
        checkpoint.tensors[name] = converted(checkpoint.tensors[name], "f32")
        gate = "layers.1.w_gate_experts"
        checkpoint.tensors[gate] = converted(checkpoint.tensors[gate], "f32")
        same = logits_of(load_model(checkpoint, compute="float32"), TOKENS[:20])
        np.testing.assert_array_equal(found, same)
