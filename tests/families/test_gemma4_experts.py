"""Gemma 4 with experts beside the feed-forward: what files say, bits that depend on nothing but the
text, files that lie.  tests/families/test_folders.py compares it with transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyroclast import LLM, SamplingParams
from pyroclast.checkpoint.convert.keys import keys_and_vectors, read_back
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError, NumericalError, UnsupportedModelError
from pyroclast.families.read_hf import hyperparameters_from_hf
from pyroclast.families.registry import config_of
from pyroclast.families.rope import NOT_ROTATED
from pyroclast.files.gguf_writer import Value
from pyroclast.model.adapters import AdapterSlots
from pyroclast.model.write_packed import write_packed
from stepping import Span, load, logits_of, step
from tiny_gemma4 import EXPERTS, PUBLISHED_EXPERTS, random_tensors, read, write

RNG = np.random.default_rng(3)
TOKENS = RNG.integers(0, 256, 150).tolist()
OTHER = RNG.integers(0, 256, 90).tolist()
GREEDY = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=2)
ROUTER = "model.layers.1.router."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gemma4-experts"), EXPERTS)


# ---- what the file says --------------------------------------------------------------------


def test_the_layers_are_those_of_26b_a4b() -> None:
    config = read(PUBLISHED_EXPERTS)
    whole, windowed = config.layers[5], config.layers[0]
    for layer, sizes in ((whole, (16, 2, 512, None, True)), (windowed, (16, 8, 256, 1024, False))):
        a = layer.attention
        assert (a.n_heads, a.n_kv_heads, a.head_dim, a.window, a.keys_are_values) == sizes
    assert whole.attention.rope is not None
    assert whole.attention.rope.freq_factors == (1.0,) * 64 + (NOT_ROTATED,) * 192
    for layer in config.layers:
        assert layer.ffn is not None and layer.experts is not None
        experts = layer.experts
        assert (layer.ffn.d_ff, experts.shared_d_ff) == (704, 2112)
        assert (experts.n_experts, experts.n_active, experts.scoring) == (128, 8, "softmax")
        assert experts.renormalize and experts.gate_scales and experts.own_norms
        assert layer.ffn.activation == "gelu_tanh"
    assert config.layer_input is None


def test_without_the_switch_there_are_no_experts() -> None:
    config = read(EXPERTS, enable_moe_block=False)
    assert config == read({key: v for key, v in EXPERTS.items() if "expert" not in key and "moe" not
                           in key})  # fmt: skip
    assert config.layers[0].experts is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts": 0}, r"n_experts must be a whole number in 1..4096, got 0"),
        ({"num_experts": None}, r"n_experts must be a whole number in 1..4096, got 0"),
        ({"num_experts": 1 << 40}, r"n_experts must be a whole number in 1..4096"),
        ({"top_k_experts": 7}, r"n_active \(experts of a token\) must be .* 1..6, got 7"),
        ({"top_k_experts": 0}, r"n_active \(experts of a token\) must be .* 1..6, got 0"),
        ({"top_k_experts": True}, r"n_active \(experts of a token\) must be .* 1..6, got True"),
        ({"moe_intermediate_size": None}, "d_expert must be a whole number in 1.."),
        ({"moe_intermediate_size": 1 << 40}, "d_expert must be a whole number in 1.."),
        ({"intermediate_size": 0}, "d_ff must be a whole number in 1.."),
        ({"enable_moe_block": "yes"}, "has_experts must be true or false, got 'yes'"),
    ],
)
def test_a_config_that_lies(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        read(EXPERTS, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expert_used_count": 7}, r"n_active \(experts of a token\) must be .* 1..6, got 7"),
        ({"expert_used_count": 0}, r"n_active \(experts of a token\) must be .* 1..6, got 0"),
        ({"expert_count": 1 << 31}, r"n_experts must be a whole number in 1..4096, got 2147483648"),
        ({"expert_count": "6"}, r"n_experts must be a whole number in 1..4096, got '6'"),
        ({"expert_feed_forward_length": 0}, "d_expert must be a whole number in 1.."),
    ],
)
def test_keys_of_a_gguf_file_that_lie(changes: dict[str, Any], words: str) -> None:
    h = hyperparameters_from_hf(EXPERTS, {})
    keys, vectors = keys_and_vectors(h, config_of(h))
    names = {f"blk.{i}.attn_k.weight" for i in range(4)}
    names |= {f"blk.{i}.attn_v.weight" for i in (0, 2)}
    changed = {f"gemma4.{key}": Value("", value) for key, value in changes.items()}
    found = read_back(keys, frozenset(names), vectors)
    assert [layer.ffn for layer in found.layers] == [layer.ffn for layer in config_of(h).layers]
    with pytest.raises(ModelFileError, match=words):
        read_back(keys | changed, frozenset(names), vectors)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        (ROUTER + "scale", None, r"tensor 'model.layers.1.router.scale' is missing"),
        (ROUTER + "per_expert_scale", np.ones(5), r"per_expert_scale' has shape \(5,\).* \(6,\)"),
        (ROUTER + "proj.weight", np.ones((5, 96)), r"has shape \(5, 96\).* \(6, 96\)"),
        ("model.layers.2.experts.gate_up_proj", None, r"experts.gate_up_proj' is missing"),
        ("model.layers.2.experts.down_proj", None, r"experts.down_proj' is missing"),
        ("model.layers.2.experts.down_proj", np.ones((5, 96, 64)), r"shape \(5, 96, 64\)"),
        ("model.layers.0.mlp.down_proj.weight", None, r"mlp.down_proj.weight' is missing"),
        ("model.layers.0.pre_feedforward_layernorm_2.weight", None, "layernorm_2.weight' is miss"),
    ],
)
def test_tensors_that_are_missing_or_lie(
    tmp_path: Path, name: str, values: Any, words: str
) -> None:
    changed = None if values is None else values.astype(np.float32)
    with pytest.raises(ModelFileError, match=words):
        load(write(tmp_path, EXPERTS, {name: changed}))


def test_experts_that_the_config_does_not_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, EXPERTS | {"enable_moe_block": False}, random_tensors(EXPERTS))
    with pytest.raises(UnsupportedModelError, match=r"32 tensors have no place in a gemma4_text"):
        load(path)


def test_a_nan_in_a_router_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, EXPERTS, {ROUTER + "scale": np.full(96, np.nan, np.float32)})
    with LLM(path) as llm, pytest.raises(NumericalError, match=r"first in layer 1 \(norm\)"):
        llm.generate([TOKENS[:30]], GREEDY)


# ---- bits ----------------------------------------------------------------------------------


def test_gates_are_the_softmax_of_the_chosen_times_their_scales(folder: Path) -> None:
    model = load(folder, compute="float32")
    logits_of(model, TOKENS)
    calls = [c for c in model.program().calls if c.kernel.op == "route"]
    given, n = calls[-1].arguments, len(TOKENS)
    logits, chosen, gates = (given[name][:n] for name in ("logits", "experts", "gates"))
    best = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    np.testing.assert_array_equal(chosen, best)
    weights = np.exp(np.take_along_axis(logits, best, axis=1).astype(np.float64))
    want = weights / weights.sum(axis=1, keepdims=True)
    scales = random_tensors(EXPERTS)["model.layers.3.router.per_expert_scale"]
    np.testing.assert_allclose(gates, want * scales[best], rtol=1e-5)
    assert len(calls) == 4 and np.unique(chosen).tolist() == list(range(6))


@pytest.mark.parametrize("kind", ["", "@q8_0"])
def test_bits_depend_on_neither_neighbours_chunks_nor_threads(folder: Path, kind: str) -> None:
    options: dict[str, Any] = {} if kind else {"compute": "float32"}
    alone = logits_of(load(f"{folder}{kind}", threads=1, **options), TOKENS)
    model = load(f"{folder}{kind}", threads=2, **options)
    np.testing.assert_array_equal(logits_of(model, TOKENS), alone)
    for size in (1, 7, 64):
        chunks = [
            step(model, [(1, first, TOKENS[first : first + size])])[0]
            for first in range(0, len(TOKENS), size)
        ]
        np.testing.assert_array_equal(np.concatenate(chunks), alone, err_msg=f"chunks of {size}")
    spans: list[Span] = [(2, 0, OTHER[:40]), (3, 0, TOKENS[:120]), (4, 0, OTHER[:1])]
    np.testing.assert_array_equal(step(model, spans)[1], alone[:120])


@pytest.mark.parametrize("kind", ["", "@q8_0"])
def test_bits_survive_preemption_and_a_prefix_hit(folder: Path, kind: str) -> None:
    path, prompts = f"{folder}{kind}", [TOKENS[:100], OTHER[:60], TOKENS[3:63]]

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


def test_native_kernels_equal_the_numpy_reference(folder: Path) -> None:
    rounded = {"kv_dtype": "f16"}  # some CPUs choose bf16
    for kind, options, bound in (("", {"compute": "float32"}, 1e-4), ("@q8_0", rounded, 0.05)):
        given: dict[str, Any] = dict(options)
        want = logits_of(load(f"{folder}{kind}", kernels="*=numpy", **given), TOKENS[:40])
        got = logits_of(load(f"{folder}{kind}", **given), TOKENS[:40])
        # Rounded to 8 bits, a near tie may choose another expert: most tokens have none.
        assert np.median(np.abs(got - want).max(axis=1)) < bound * np.abs(want).max()


# ---- weights that a layer has in another way -----------------------------------------------


def test_a_converted_and_a_packed_file_are_the_same_model(tmp_path: Path, folder: Path) -> None:
    want = logits_of(load(folder), TOKENS)
    convert(str(folder), str(tmp_path / "model.gguf"), "f32")
    write_packed(str(tmp_path / "model.gguf"), str(tmp_path / "model.pyro"))
    for name in ("model.gguf", "model.pyro"):
        np.testing.assert_array_equal(logits_of(load(tmp_path / name), TOKENS), want)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (ROUTER + "scale", (96,)),
        (ROUTER + "per_expert_scale", (6,)),
        ("model.layers.1.experts.gate_up_proj", (6, 128, 96)),
        ("model.layers.1.post_feedforward_layernorm_1.weight", (96,)),
    ],
)
def test_updated_weights_are_those_of_a_folder_that_has_them(
    tmp_path: Path, folder: Path, name: str, shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    model = load(folder)
    before = logits_of(model, TOKENS[:9])
    want = logits_of(load(write(tmp_path / "after", EXPERTS, {name: values})), TOKENS[:9])
    model.update(model.prepare_update({name: values}))
    got = logits_of(model, TOKENS[:9])
    np.testing.assert_array_equal(got, want)
    assert not np.array_equal(got, before)


@pytest.mark.parametrize("product", ["w_down", "w_up"])
def test_an_adapter_beside_the_experts_is_the_sum_of_the_weights(
    tmp_path: Path, folder: Path, product: str
) -> None:
    with open_checkpoint(folder) as checkpoint:
        weight = checkpoint.tensors[f"layers.1.{product}"].float32()
    rng = np.random.default_rng(2)
    a = rng.standard_normal((2, weight.shape[1]), np.float32)
    b = rng.standard_normal((weight.shape[0], 2), np.float32)
    name = f"model.layers.1.mlp.{product[2:]}_proj.weight"
    summed = load(write(tmp_path, EXPERTS, {name: weight + b @ a / 10}), compute="float32")
    want = logits_of(summed, TOKENS[:20])
    model = load(folder, compute="float32", adapters=AdapterSlots(1, 2))
    plain = logits_of(model, TOKENS[:20])
    model.adapters.set(0, {f"layers.1.{product}": (a, b)}, 0.1)
    step(model, [(0, 0, TOKENS[:20])])  # writes the batch
    model.adapters.assign([0])
    [got] = step(model, [(0, 0, TOKENS[:20])])
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
    assert np.abs(got - plain).max() > 1e-2 * np.abs(want).max()
