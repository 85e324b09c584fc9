"""Layers as data: a made-up family whose layers differ, and what a spec may not ask for yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import made_up
import made_up_forward
import tiny
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.experts import ExpertsSpec
from pyroclast.families.layer_spec import (
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    NormSpec,
    TemperatureSpec,
)
from pyroclast.families.recurrent import GatedDeltaSpec, ShortConvSpec
from pyroclast.families.registry import FAMILIES
from pyroclast.families.rope import RopeSpec
from pyroclast.model.kv_cache import BLOCK_SIZE
from pyroclast.model.model import load_model
from stepping import load, logits_of, step

TOKENS = np.random.default_rng(5).integers(0, 256, 100).tolist()
CONFIG = replace(
    tiny.BASE,
    family="made-up",
    n_layers=len(made_up.LAYERS),
    extra={"local_rope_theta": made_up.LOCAL_THETA},
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a new family takes beside its own file: its name in the registry."""
    monkeypatch.setitem(FAMILIES, "made-up", made_up.FAMILY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made-up")


def gguf_file(folder: Path, quant: str = "F32") -> Path:
    path = folder / f"{quant}.gguf"
    if not path.exists():
        tiny.write_gguf(path, CONFIG, tiny.random_weights(CONFIG), quant)
    return path


# ---- layers that differ --------------------------------------------------------------------


@pytest.mark.parametrize("kernels", [None, "*=numpy"])
@pytest.mark.parametrize("source", ["gguf", "folder"])
def test_both_file_formats_equal_a_plain_forward_pass(
    folder: Path, source: str, kernels: str | None
) -> None:
    weights = tiny.random_weights(CONFIG)
    path = gguf_file(folder)
    if source == "folder":
        path = tiny.write_folder(folder / "hf", CONFIG, weights)
    want = made_up_forward.forward(weights, TOKENS, CONFIG.norm_eps)
    got = logits_of(load(path, compute="float32", kernels=kernels), TOKENS)
    assert float(want.std()) > 0.1
    np.testing.assert_allclose(got, want, atol=2e-5 * float(np.abs(want).max()), rtol=0)


@pytest.mark.parametrize("field", ["window", "theta", "norm_offset", "has_bias"])
def test_what_varies_by_layer_matters(field: str) -> None:
    """The plain forward pass gives something else if the layers agree in that: so the comparison
    above sees each of them."""
    weights = tiny.random_weights(CONFIG)
    want = made_up_forward.forward(weights, TOKENS, CONFIG.norm_eps)
    uniform = made_up.BASE.changed(*range(4), **{field: getattr(made_up.LAYERS[0], field)})
    got = made_up_forward.forward(weights, TOKENS, CONFIG.norm_eps, uniform)
    assert np.abs(got - want).max() > 1e-3 * np.abs(want).max()


@pytest.mark.parametrize(
    ("quant", "options"),
    [
        ("F32", {"compute": "float32"}),
        ("Q8_0", {}),
        ("Q8_0", {"kv_dtype": "q8_0", "threads": 2}),
        ("BF16", {}),
    ],
)
def test_chunks_give_the_bits_of_the_whole(
    folder: Path, quant: str, options: dict[str, Any]
) -> None:
    model = load(gguf_file(folder, quant), **options)
    whole = logits_of(model, TOKENS)
    for size in (1, 7, 33):
        chunks = [
            step(model, [(1, first, TOKENS[first : first + size])])[0]
            for first in range(0, len(TOKENS), size)
        ]
        np.testing.assert_array_equal(np.concatenate(chunks), whole, err_msg=f"chunks of {size}")


def test_quantized_layers_of_several_widths_equal_the_numpy_reference(folder: Path) -> None:
    path = gguf_file(folder, "Q8_0")
    want = logits_of(load(path, kernels="*=numpy"), TOKENS[:40])
    got = logits_of(load(path), TOKENS[:40])
    assert np.abs(got - want).mean() < 0.03 * want.std()
    # Attention quantizes heads of 32 itself; those of 16 take an op of their own.
    calls = [(c.label, c.kernel.op) for c in load(path)._calls if c.kernel.op == "quantize"]
    assert calls == [(f"layer {i}", "quantize") for i in (0, 2, 3)]


def test_the_cache_and_the_tables_follow_the_layers(folder: Path) -> None:
    model = load(gguf_file(folder), kv_dtype="f32", n_blocks=3)
    cells = [2 * layer.n_kv_heads * layer.head_dim for layer in made_up.LAYERS]
    assert model.kv_bytes == 3 * BLOCK_SIZE * 4 * sum(cells)
    assert [array.shape[1] for array in model.cache.k] == [2, 1, 6, 2]
    # Layers 0 and 3 rotate alike, layer 2 not at all.
    ops = [call.kernel.op for call in model._calls]
    assert ops.count("rope_table") == 2


# ---- what no kernel does yet ---------------------------------------------------------------

REFUSED_ATTENTION: list[tuple[dict[str, Any], str]] = [
    ({"head_dim": 514}, r"a head_dim of 514 \(the maximum is 512\)"),
    ({"qk_norm": NormSpec(1e-6, "layer")}, "a norm on queries and keys with a mean or a bias"),
    ({"qk_norm": NormSpec(1e-6, bias=True)}, "a norm on queries and keys with a mean or a bias"),
    ({"v_norm": True}, "a norm on values alone"),
]
REFUSED_FFN: list[tuple[dict[str, Any], str]] = [
    ({"activation": "quick_gelu"}, r"the activation 'quick_gelu' \(supported: silu, "),
    ({"limit": 7.0}, "a limit or an offset in a feed-forward without experts"),
    ({"up_offset": 1.0}, "a limit or an offset in a feed-forward without experts"),
    ({"activation": "mish"}, r"the activation 'mish' \(supported: silu, gelu_tanh, gelu, relu, "),
]
REFUSED_LAYER: list[tuple[dict[str, Any], str]] = [
    (
        {"norm_after": True, "ffn": FeedForwardSpec(32, experts=ExpertsSpec(8, 2))},
        "a norm after its experts",
    ),
    (
        {"norm_after": True, "ffn": FeedForwardSpec(32, experts=ExpertsSpec(8, 2, own_norms=True))},
        "norms of experts without a shared one",
    ),
    (
        {"out_scale": True, "ffn": FeedForwardSpec(32, experts=ExpertsSpec(8, 2))},
        "a number that multiplies the state after experts",
    ),
]


def changed(spec: LayerSpec, part: str, change: dict[str, Any]) -> LayerSpec:
    if part == "attention":
        return replace(spec, mixer=replace(spec.attention, **change))
    return (
        replace(spec, ffn=replace(spec.ffn, **change)) if part == "ffn" else replace(spec, **change)
    )


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        (part, change, words)
        for part, refused in (
            ("attention", REFUSED_ATTENTION),
            ("ffn", REFUSED_FFN),
            ("layer", REFUSED_LAYER),
        )
        for change, words in refused
    ],
)
def test_a_layer_that_no_kernel_does_is_refused_before_anything_is_read(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    change: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.setattr("pyroclast.checkpoint.tensor.Tensor.rows", lambda _: pytest.fail("read"))
    with open_checkpoint(gguf_file(folder)) as checkpoint:
        first, second, *rest = checkpoint.config.layers
        layers = (first, second, changed(rest[0], part, change), *rest[1:])
        checkpoint.config = replace(checkpoint.config, layers=layers)
        with pytest.raises(UnsupportedModelError, match=f"layer 2 has {words}"):
            load_model(checkpoint)


def test_a_model_without_attention_is_refused(folder: Path) -> None:
    with open_checkpoint(gguf_file(folder)) as checkpoint:
        layers = tuple(
            replace(spec, mixer=ShortConvSpec(64, 3)) for spec in checkpoint.config.layers
        )
        checkpoint.config = replace(checkpoint.config, layers=layers)
        with pytest.raises(UnsupportedModelError, match="none of the 4 layers has attention"):
            load_model(checkpoint)


NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AttentionSpec(0, 1, 16, None), "n_heads must be a whole number"),
        (lambda: AttentionSpec(4, 3, 16, None), "n_heads must be a multiple of n_kv_heads 3"),
        (lambda: AttentionSpec(4, 0, 16, None), "n_kv_heads must be"),
        (lambda: AttentionSpec(4, 2, 15, None), "head_dim must be even"),
        (lambda: AttentionSpec(4, 2, 16, None, window=0), "sliding_window must be"),
        (lambda: AttentionSpec(4, 2, 16, None, scale=0.0), "attention scale must be"),
        (lambda: AttentionSpec(4, 2, 16, None, scale=NAN), "attention scale must be"),
        (lambda: AttentionSpec(4, 2, 16, None, softcap=-1.0), "attention softcap must be"),
        (lambda: AttentionSpec(4, 2, 16, RopeSpec(1e4, None, (1.0,))), "rope_freqs must hold"),
        (lambda: TemperatureSpec(-0.1, 64), "beta of the attention temperature must be"),
        (lambda: TemperatureSpec(0.1, 0), "length of the attention temperature must be"),
        (lambda: RopeSpec(0.0), "rope_theta must be"),
        (lambda: FeedForwardSpec(0), "d_ff must be"),
        (lambda: FeedForwardSpec(8, limit=NAN), "limit of gate and up must be"),
        (lambda: FeedForwardSpec(8, up_offset=NAN), "offset of up must be"),
        (lambda: ExpertsSpec(0, 1), "n_experts must be a whole number in 1..4096, got 0"),
        (lambda: ExpertsSpec(-8, 2), "n_experts must be"),
        (lambda: ExpertsSpec(2**40, 2), "n_experts must be"),
        (lambda: ExpertsSpec(8, 9), r"n_active \(experts of a token\) must be .* in 1..8, got 9"),
        (lambda: ExpertsSpec(8, 0), "n_active"),
        (lambda: ExpertsSpec(8, 2, "best"), "scoring of experts must be one of softmax, sigmoid"),
        (lambda: ExpertsSpec(8, 2, renormalize=1), "renormalize of experts must be true or false"),
        (lambda: ExpertsSpec(8, 2, scale=NAN), "scale of experts must be"),
        (lambda: ExpertsSpec(8, 2, own_norms=1), "own_norms of experts must be true or false"),
        (lambda: ExpertsSpec(8, 2, gate_scales=1), "gate_scales of experts must be true or fal"),
        (lambda: NormSpec(2.0), "norm_eps must be"),
        (lambda: ShortConvSpec(8, 1), "width of the convolution must be at least 2, got 1"),
        (lambda: ShortConvSpec(8, 2**40), r"width of the convolution must be .* in 1..64"),
        (lambda: ShortConvSpec(0, 3), "channels of the convolution must be"),
        (lambda: GatedDeltaSpec(4, 6, 8, 8, 4, 1e-6), "must be a multiple of its 4 key heads"),
        (lambda: GatedDeltaSpec(0, 4, 8, 8, 4, 1e-6), "key heads of linear attention must be"),
        (lambda: GatedDeltaSpec(2, -4, 8, 8, 4, 1e-6), "value heads of linear attention must"),
        (lambda: GatedDeltaSpec(2, 4, 2**31, 8, 4, 1e-6), "key head size of linear attention"),
        (lambda: GatedDeltaSpec(2, 4, 8, 0, 4, 1e-6), "value head size of linear attention"),
        (lambda: GatedDeltaSpec(2, 4, 8, 8, 0, 1e-6), "width of the convolution must be"),
        (lambda: GatedDeltaSpec(2, 4, 8, 8, 4, NAN), "norm_eps of linear attention must be"),
        (lambda: NormSpec(1e-5, weight_offset=NAN), "weight_offset of norms must be"),
        (
            lambda: LayerSpec(
                ShortConvSpec(8, 3), FeedForwardSpec(8), NormSpec(1e-5), True, False, 0
            ),
            "residual_scale must be",
        ),
    ],
)
def test_specs_check_themselves(make: Any, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        make()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embedding_scale": NAN}, "embedding_scale must be"),
        ({"logit_scale": -1.0}, "logit_scale must be"),
        ({"logit_softcap": 0.0}, "logit_softcap must be"),
        ({"learned_positions": 0}, "learned_positions must be"),
        # A position without a row would be read from beyond the table.
        ({"learned_positions": 255}, r"max_seq_len must be a whole number in 1..255, got 256"),
    ],
)
def test_a_config_checks_itself(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        replace(made_up.config(CONFIG), **change)
