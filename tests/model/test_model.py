"""The forward pass: NumPy against native, and bits that depend on the sequence alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyroclast.errors import ClosedError, KernelError, MemoryBudgetError, RequestError
from pyroclast.model.kv_cache import DTYPES
from pyroclast.model.model import Model
from pyroclast_kernels import features
from pyroclast_kernels.selection import all_variants
from stepping import load, logits_of, step
from tiny import CONFIGS, random_weights, write_folder, write_gguf

RNG = np.random.default_rng(7)
TOKENS = RNG.integers(0, 256, 150).tolist()
OTHER = RNG.integers(0, 256, 90).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def tiny(folder: Path, name: str, quant: str = "F32") -> Path:
    path = folder / f"{name}-{quant}.gguf"
    if not path.exists():
        write_gguf(path, CONFIGS[name], random_weights(CONFIGS[name]), quant)
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_native_float32_equals_the_numpy_reference(folder: Path, name: str) -> None:
    path = tiny(folder, name)
    want = logits_of(load(path, kernels="*=numpy", compute="float32"), TOKENS[:100])
    got = logits_of(load(path, compute="float32"), TOKENS[:100])
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(got, want, atol=2e-5 * float(np.abs(want).max()), rtol=0)


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0", "Q4_1", "F16", "BF16"])
def test_native_quantized_equals_the_numpy_reference(folder: Path, quant: str) -> None:
    """Within the steps of 8-bit activations: a value near a tie may round the other way."""
    path = tiny(folder, "llama", quant)
    want = logits_of(load(path, kernels="*=numpy"), TOKENS[:40])
    got = logits_of(load(path), TOKENS[:40])
    spread = float(want.std())
    assert np.abs(got - want).mean() < 0.03 * spread  # one step of 127 is 1% of a block
    assert np.abs(got - want).max() < 0.2 * spread


VARIANTS = [
    name
    for name, variant in all_variants("matmul").items()
    # A partial level has no kernel for most ops, of which `pack` is one.
    if not variant.unavailable and "f32" in variant.formats and name in all_variants("pack")
]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_forced_technology_is_the_one_that_runs(folder: Path, name: str) -> None:
    path = tiny(folder, "llama")
    want = logits_of(load(path, compute="float32", kernels="*=numpy"), TOKENS[:20])
    model = load(path, compute="float32", kernels=f"*={name}")
    np.testing.assert_allclose(logits_of(model, TOKENS[:20]), want, atol=1e-4, rtol=0)
    assert set(model.kernels.values()) == {name}


@pytest.fixture(
    scope="module",
    params=["f32", "bf16", "q8_0", "q4_1", "window", "kv-f32", "kv-bf16", "kv-q8_0"],
)
def case(request: pytest.FixtureRequest, folder: Path) -> tuple[Path, dict[str, Any]]:
    if request.param == "f32":
        return tiny(folder, "qwen2"), {"compute": "float32"}
    if request.param.startswith("kv-"):
        return tiny(folder, "llama", "Q8_0"), {"kv_dtype": request.param[3:]}
    if request.param == "window":
        return tiny(folder, "mistral", "Q8_0"), {}
    return tiny(folder, "llama", request.param.upper()), {}


def test_logits_do_not_depend_on_chunking(case: tuple[Path, dict[str, Any]]) -> None:
    path, options = case
    model = load(path, **options)
    alone = logits_of(model, TOKENS)
    for size in (1, 7, 33, 149):
        chunks = [
            step(model, [(0, first, TOKENS[first : first + size])])[0]
            for first in range(0, len(TOKENS), size)
        ]
        np.testing.assert_array_equal(np.concatenate(chunks), alone, err_msg=f"chunks of {size}")


def test_logits_do_not_depend_on_neighbours(case: tuple[Path, dict[str, Any]]) -> None:
    path, options = case
    model = load(path, **options)
    alone, other = logits_of(model, TOKENS), logits_of(model, OTHER)
    together = step(model, [(3, 0, OTHER), (1, 0, TOKENS[:60]), (2, 0, TOKENS[:5])])
    np.testing.assert_array_equal(together[0], other)
    np.testing.assert_array_equal(together[1], alone[:60])
    np.testing.assert_array_equal(together[2], alone[:5])
    mixed = step(model, [(1, 60, TOKENS[60:]), (2, 5, TOKENS[5:6])])  # prefill beside a decode
    np.testing.assert_array_equal(mixed[0], alone[60:])
    np.testing.assert_array_equal(mixed[1], alone[5:6])


def test_logits_do_not_depend_on_threads(case: tuple[Path, dict[str, Any]]) -> None:
    path, options = case
    want = logits_of(load(path, threads=1, **options), TOKENS)
    for threads in (2, 5):
        got = logits_of(load(path, threads=threads, **options), TOKENS)
        np.testing.assert_array_equal(got, want, err_msg=f"{threads} threads")


@pytest.mark.slow
@pytest.mark.parametrize("kv_dtype", DTYPES)
def test_logits_do_not_depend_on_chunking_beyond_a_split(folder: Path, kv_dtype: str) -> None:
    """Positions past 512, where attention merges splits: many tokens at once and one by one."""
    config = replace(CONFIGS["llama"], max_seq_len=2048)
    path = folder / "long.gguf"
    write_gguf(path, config, random_weights(config), "Q8_0")
    tokens = np.random.default_rng(3).integers(0, 256, 1100).tolist()
    model = load(path, max_batch_tokens=1100, max_logits=1100, n_blocks=400, kv_dtype=kv_dtype)
    alone = step(model, [(0, 0, tokens)])[0]
    step(model, [(1, 0, tokens[:1000])])
    several = step(model, [(1, 1000, tokens[1000:1012])])[0]  # few tokens that share their splits
    np.testing.assert_array_equal(several, alone[1000:1012])
    for i in range(1000, 1100):
        one = step(model, [(1, i, tokens[i : i + 1])])[0]
        np.testing.assert_array_equal(one, alone[i : i + 1])


def test_sliding_window_forgets(folder: Path) -> None:
    """Two layers of window 24 see 2 * 23 positions back; what lies before cannot matter."""
    model = load(tiny(folder, "mistral"), compute="float32")
    full = load(tiny(folder, "mistral-full"), compute="float32")
    changed = [(t + 1) % 256 for t in TOKENS[:20]] + TOKENS[20:]
    a, b = logits_of(model, TOKENS), logits_of(model, changed)
    np.testing.assert_array_equal(a[20 + 46 :], b[20 + 46 :])
    assert (a[30] != b[30]).any()
    assert (logits_of(full, TOKENS)[-1] != logits_of(full, changed)[-1]).any()


def test_kv_dtype_and_compute_change_the_result_a_little(folder: Path) -> None:
    path = tiny(folder, "llama", "Q8_0")
    models = {kv_dtype: load(path, kv_dtype=kv_dtype) for kv_dtype in DTYPES}
    auto = load(path)
    assert auto.kv_dtype in ("f16", "bf16")
    sizes = {kv_dtype: model.kv_bytes for kv_dtype, model in models.items()}
    assert sizes["f32"] == 2 * sizes["f16"] == 2 * sizes["bf16"]
    assert 0.5 * sizes["f16"] < sizes["q8_0"] < 0.6 * sizes["f16"]  # a scale for 16 dimensions
    wide = logits_of(models["f32"], TOKENS)
    np.testing.assert_array_equal(logits_of(auto, TOKENS), logits_of(models[auto.kv_dtype], TOKENS))
    errors = {
        kv_dtype: float(np.abs(logits_of(model, TOKENS) - wide).mean())
        for kv_dtype, model in models.items()
    }
    assert errors["f32"] == 0
    # 11 bits, 8 bits, and 8 bits of the largest of a group
    assert 0 < errors["f16"] < errors["bf16"] < 0.02
    assert errors["f16"] < errors["q8_0"] < 0.02
    exact = logits_of(load(path, compute="float32"), TOKENS)
    assert 0 < np.abs(wide - exact).max() < 0.5


@pytest.mark.parametrize("variant", ["numpy", "cpp-baseline", "cpp-avx2", "cpp-avx512vnni"])
@pytest.mark.parametrize("is_fast", [True, False])
def test_the_automatic_cache_suits_the_kernel(
    folder: Path, variant: str, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if all_variants("attention")[variant].unavailable:
        pytest.skip(all_variants("attention")[variant].unavailable)
    monkeypatch.setattr(features, "has_fast_bf16_dot", lambda: is_fast)
    path = tiny(folder, "llama", "Q8_0")
    model = load(path, kernels=f"attention={variant}")
    assert model.kv_dtype == ("bf16" if is_fast and variant == "cpp-avx512vnni" else "f16")
    assert load(path, kernels=f"attention={variant}", compute="float32").kv_dtype == "f32"
    assert load(tiny(folder, "llama", "BF16"), kernels=f"attention={variant}").kv_dtype == "f16"


@pytest.mark.parametrize("kv_dtype", DTYPES)
def test_native_attention_equals_the_numpy_reference(folder: Path, kv_dtype: str) -> None:
    """Products in float32, so that what differs is the rounding of the cache's kernels."""
    path = tiny(folder, "llama")
    options = {"compute": "float32", "kv_dtype": kv_dtype}
    want = logits_of(load(path, kernels="*=numpy", **options), TOKENS[:100])
    got = logits_of(load(path, **options), TOKENS[:100])
    exact = kv_dtype in ("f32", "f16")
    # A value at a tie between two float16 may fall to either side; the others round queries and
    # probabilities to 8 bits (bf16) or 16 (q8_0, where a key may fall to either side as well).
    np.testing.assert_allclose(got, want, atol=(5e-4 if exact else 2e-2) * want.std(), rtol=0)


@pytest.mark.parametrize("kv_dtype", DTYPES)
def test_zeroed_blocks_forget_a_nan(folder: Path, kv_dtype: str) -> None:
    """What a failed request leaves in the cache must not reach the block's next owner.  Formats
    in pairs read a position too many, whose weight is zero; the others never do."""
    sound = load(tiny(folder, "llama"), kv_dtype=kv_dtype)
    want = logits_of(sound, TOKENS[:5])
    for array in (*sound.cache.k, *sound.cache.v):
        array.reshape(-1).view(np.uint8)[:] = 0xFF  # a NaN in every format that has one
    assert np.isnan(logits_of(sound, TOKENS[:5])).any() == (kv_dtype in ("bf16", "q8_0"))
    sound.zero_blocks(range(sound.n_blocks))
    np.testing.assert_array_equal(logits_of(sound, TOKENS[:5]), want)


def test_a_folder_quantized_at_load_equals_the_gguf(folder: Path) -> None:
    config = CONFIGS["qwen2"]
    weights = random_weights(config)
    where = folder / "qwen2-folder"
    write_folder(where, config, weights)
    got = logits_of(load(f"{where}@q8_0"), TOKENS)
    want = logits_of(load(tiny(folder, "qwen2", "Q8_0")), TOKENS)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("name", "where"), [("layers.1.wo", "layer 1"), ("output", "output")])
def test_non_finite_weights_are_found_and_named(folder: Path, name: str, where: str) -> None:
    weights = random_weights(CONFIGS["llama"])
    weights[name][3, 5] = np.nan
    path = folder / f"nan-{name}.gguf"
    write_gguf(path, CONFIGS["llama"], weights)
    model = load(path)
    assert not np.isfinite(logits_of(model, TOKENS[:4])).all()
    assert model.find_non_finite().startswith(where)
    assert logits_of(load(tiny(folder, "llama")), TOKENS[:4]).max() < 1e4


def test_a_sound_model_has_nothing_to_name(folder: Path) -> None:
    model = load(tiny(folder, "llama", "Q8_0"))
    logits_of(model, TOKENS[:4])
    assert model.find_non_finite() == ""


def test_profile_names_every_call(folder: Path) -> None:
    model = load(tiny(folder, "llama", "Q8_0"))
    logits_of(model, TOKENS[:4])
    rows = model.profile()
    assert {label for label, *_ in rows} == {"embedding", "layer 0", "layer 1", "output"}
    assert all(microseconds > 0 for *_, microseconds in rows)
    assert model.native_seconds > 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"compute": "float8"}, KernelError, "float32"),
        ({"kv_dtype": "q1"}, KernelError, "f16"),
        ({"threads": 0}, KernelError, "between 1 and"),
        ({"kernels": "matmul=warp"}, KernelError, "warp"),
        ({"n_blocks": 0}, RequestError, "at least 1"),
        ({"n_blocks": 1 << 40}, MemoryBudgetError, "MiB"),
    ],
)
def test_bad_options(
    folder: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load(tiny(folder, "llama"), **options)


def test_use_after_close(folder: Path) -> None:
    model: Model = load(tiny(folder, "llama"))
    model.close()
    model.close()
    for use in (model.forward, model.profile, model.find_non_finite):
        with pytest.raises(ClosedError):
            use()
