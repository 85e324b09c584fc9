"""The engine on the GPU, or in Triton's interpreter: against the CPU, and against itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import made_up
import tiny
from lora_files import random_pairs, write_peft
from pyroclast import LLM, NumericalError, SamplingParams
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ClosedError, KernelError, MemoryBudgetError
from pyroclast.families.registry import FAMILIES
from pyroclast.model.adapters import AdapterSlots
from pyroclast.model.inspect import inspect_step
from pyroclast.model.load_plan import plan
from pyroclast.model.model import Model
from pyroclast.model.options import LoadOptions
from stepping import load, logits_of, step

CONFIG = replace(
    tiny.BASE,
    family="qwen2",  # which has biases
    qkv_bias=True,
    n_layers=1,
    n_heads=2,
    n_kv_heads=1,
    head_dim=32,
    d_model=64,
    d_ff=64,
    vocab_size=272,
    max_seq_len=128,
)
TOKENS = np.random.default_rng(7).integers(0, 256, 40).tolist()
PROMPTS = [TOKENS[:11], TOKENS[5:9], TOKENS[20:22]]
GREEDY = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
OPTIONS: dict[str, Any] = {"max_seqs": 4, "max_batch_tokens": 48}


def write(folder: Path, quant: str) -> Path:
    path = folder / f"{quant}.gguf"
    if not path.exists():
        tiny.write_gguf(path, CONFIG, tiny.random_weights(CONFIG), quant)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def cpu(folder: Path) -> Iterator[LLM]:
    with LLM(write(folder, "F32"), device="cpu", compute="float32", **OPTIONS) as llm:
        yield llm


@pytest.fixture(scope="module")
def gpu(folder: Path) -> Iterator[LLM]:
    with LLM(write(folder, "F32"), device="cuda", compute="float32", **OPTIONS) as llm:
        yield llm


def ids(outs: list[Any]) -> list[list[int]]:
    return [out.token_ids for out in outs]


# ---- against the CPU -----------------------------------------------------------------------


def test_float32_equals_the_cpu(cpu: LLM, gpu: LLM) -> None:
    assert (gpu.device, gpu.device_note) == ("cuda", 'device="cuda" was asked for')
    assert set(gpu.kernels.values()) == {"triton"} and gpu.table == "defaults"
    assert (gpu.model.kv_dtype, gpu.n_threads) == ("f32", 1)
    want, got = cpu.logits(TOKENS), gpu.logits(TOKENS)
    np.testing.assert_allclose(got, want, atol=2e-5 * float(np.abs(want).max()), rtol=0)
    assert ids(gpu.generate(PROMPTS, GREEDY)) == ids(cpu.generate(PROMPTS, GREEDY))


SAMPLED = {
    "plain": {},
    "cuts": {"top_k": 30, "top_p": 0.9, "min_p": 0.01},
    "penalties": {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    "bias": {"logit_bias": {7: 4.0, 9: -3.0}, "allowed_token_ids": tuple(range(200))},
    "early end": {"min_tokens": 2, "stop_token_ids": tuple(range(100))},
}


def test_sampling_equals_the_cpu(cpu: LLM, gpu: LLM) -> None:
    """Each sequence of the batch under parameters of its own, and with its log-probabilities."""
    params = [
        SamplingParams(**{"seed": 3 + i, "max_tokens": 3, "logprobs": 2, **options})
        for i, options in enumerate(SAMPLED.values())
    ]
    prompts = [TOKENS[i : i + 4] for i in range(len(params))]
    want, got = cpu.generate(prompts, params), gpu.generate(prompts, params)
    assert ids(got) == ids(want)
    assert [out.finish_reason for out in got] == [out.finish_reason for out in want]
    for ours, theirs in zip(got, want, strict=True):
        assert ours.logprobs is not None and theirs.logprobs is not None
        for a, b in zip(ours.logprobs, theirs.logprobs, strict=True):
            assert (a.rank, a.is_greedy) == (b.rank, b.is_greedy)
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
            assert [token for token, _ in a.top] == [token for token, _ in b.top]


def test_stop_strings_and_completions_of_one_prompt(cpu: LLM, gpu: LLM) -> None:
    """The copies of a prompt of a block and more share its blocks."""
    [plain] = cpu.generate([TOKENS], GREEDY)
    stop = plain.text[1:3]
    params = GREEDY.replace(stop=(stop,))
    assert gpu.generate([TOKENS], params)[0].text == cpu.generate([TOKENS], params)[0].text
    several = SamplingParams(n=2, seed=5, max_tokens=3, ignore_eos=True)
    assert ids(gpu.generate([TOKENS], several)) == ids(cpu.generate([TOKENS], several))


def test_scores_equal_the_cpu_s(cpu: LLM, gpu: LLM) -> None:
    [want], [got] = cpu.score([TOKENS[:12]], n_top=3), gpu.score([TOKENS[:12]], n_top=3)
    for a, b in zip(got.logprobs[1:], want.logprobs[1:], strict=True):
        assert a is not None and b is not None
        assert (a.token_id, a.rank) == (b.token_id, b.rank)
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
        assert [token for token, _ in a.top] == [token for token, _ in b.top]


def test_callables_of_the_user_s_change_the_logits(cpu: LLM, gpu: LLM) -> None:
    """They run on the host, and so does the sampler of that step."""
    seen: list[np.ndarray] = []

    def third(token_ids: list[int], logits: np.ndarray) -> np.ndarray:
        seen.append(logits.copy())
        logits[np.argsort(logits)[-2:]] = -np.inf
        return logits

    params = GREEDY.replace(logits_processors=(third,), max_tokens=2, logprobs=1)
    beside = GREEDY.replace(max_tokens=2)
    want = cpu.generate(PROMPTS[:2], [params, beside])
    got = gpu.generate(PROMPTS[:2], [params, beside])
    assert ids(got) == ids(want)
    assert got[0].logprobs is not None and want[0].logprobs is not None
    assert [each.top[0][0] for each in got[0].logprobs] == [x.top[0][0] for x in want[0].logprobs]
    assert len(seen) == 4
    np.testing.assert_allclose(seen[2], seen[0], atol=1e-4)


@pytest.mark.parametrize("quant", ["BF16", "F16", "Q8_0", "Q4_0"])
def test_stored_formats_are_near_the_cpu_and_decode_to_the_same_bits(
    folder: Path, quant: str
) -> None:
    """Within the steps of 16-bit and 8-bit activations and of a cache in f16."""
    path = write(folder, quant)
    want = logits_of(load(path), TOKENS[:6])
    model = load(path, device="cuda", max_batch_tokens=16, max_logits=16)
    assert model.kv_dtype == "f16"
    got = logits_of(model, TOKENS[:6])
    assert np.abs(got - want).mean() < 0.03 * want.std()
    assert np.abs(got - want).max() < 0.2 * want.std()
    step(model, [(1, 0, TOKENS[:5])])
    decoded = step(model, [(1, 5, TOKENS[5:6]), (2, 0, TOKENS[:1])])
    np.testing.assert_array_equal(np.concatenate(decoded), got[[5, 0]])


def test_hidden_rows_equal_the_cpu_s(folder: Path) -> None:
    """In a step that reads a prompt, and in one that decodes; and memory is planned for them."""
    options: dict[str, Any] = {"compute": "float32", "hidden_layers": (0, "final"), "n_blocks": 16}
    models = [load(write(folder, "F32"), device=name, **options) for name in ("cpu", "cuda")]
    for span in ((0, 0, TOKENS[:6]), (0, 6, TOKENS[6:7])):
        want, got = (step(model, [span]) and model.hidden for model in models)
        n = len(span[2])
        bound = 2e-5 * float(np.abs(want[:, :n]).max())
        np.testing.assert_allclose(got[:, :n], want[:, :n], atol=bound, rtol=0)
    sizes = {"max_batch_tokens": 16, "max_seqs": 8, "max_logits": 16, "n_blocks": 5}
    with open_checkpoint(write(folder, "F32")) as checkpoint:
        plain, more = (
            plan(checkpoint, "cuda", LoadOptions(**sizes, hidden_layers=layers)).n_bytes["a step"]
            for layers in ((), (0, "final"))
        )
    assert more - plain == 2 * 16 * CONFIG.d_model * 4


def test_adapters_of_files_equal_the_cpu_s(folder: Path, tmp_path: Path) -> None:
    """Loaded before the first step is prepared, and behind a cached prefix."""
    adapters = {"a": write_peft(tmp_path, random_pairs(CONFIG, 2, ("wq", "w_down")))}
    options: dict[str, Any] = {"compute": "float32", "adapters": adapters, **OPTIONS}
    found = []
    for device in ("cpu", "cuda"):
        with LLM(write(folder, "F32"), device=device, **options) as llm:
            found.append([llm.logits(TOKENS, adapter=name) for name in (None, "a")])
            [first], [again] = (llm.generate([TOKENS], GREEDY, adapter="a") for _ in range(2))
            # Parts of blocks are copied on the CPU only.
            n_cached = len(TOKENS) - 1 if device == "cpu" else 32
            assert again.timings.n_cached_tokens == n_cached
            assert again.token_ids == first.token_ids
    (base, want), (gpu_base, got) = found
    assert np.abs(want - base).max() > 0.1
    for ours, theirs in ((gpu_base, base), (got, want)):
        assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("quant", ["F32", "Q8_0", "BF16"])
def test_adapters_equal_the_cpu_s(folder: Path, quant: str) -> None:
    """In a step that reads prompts and in one that decodes; without one a sequence has the bits of
    a model without slots, and an adapter that is loaded later is sent."""
    path, rng = write(folder, quant), np.random.default_rng(3)
    options: dict[str, Any] = {"max_batch_tokens": 16, "max_logits": 16, "n_blocks": 16}
    options["compute"] = "float32" if quant == "F32" else "auto"
    models = [
        load(path, device=device, adapters=AdapterSlots(2, 3), **options)
        for device in ("cpu", "cuda")
    ]
    plain = logits_of(load(path, device="cuda", **options), TOKENS[:6])
    bound = 2e-5 if quant == "F32" else 0.1
    for seed in (0, 1):
        shapes = {"layers.0.wv": (32, 64), "layers.0.w_up": (64, 64), "layers.0.wo": (64, 64)}
        tensors = {
            name: (rng.standard_normal((2, n_cols)) / 8, rng.standard_normal((n_rows, 2)))
            for name, (n_rows, n_cols) in shapes.items()
        }
        found = []
        for model in models:
            model.adapters.set(1, tensors, 0.5 + seed)
            step(model, spans := [(0, 0, TOKENS[:6]), (1, 0, TOKENS[:6])])
            model.adapters.assign([1, None])
            found.append(step(model, spans))
            step(model, [(0, 6, TOKENS[6:7])])
            model.adapters.assign([1])
            found[-1] += step(model, [(0, 6, TOKENS[6:7])])
        want, got = found
        assert np.abs(want[0] - want[1]).max() > 0.1
        np.testing.assert_array_equal(got[1], plain)
        for ours, theirs in zip(got, want, strict=True):
            assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max()


@pytest.mark.parametrize("quant", ["Q8_0", "BF16"])
def test_layers_that_differ_equal_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quant: str
) -> None:
    """Widths, windows and rotary tables by layer, and all else that a layer may have; a decoding
    step gives the bits of the whole."""
    monkeypatch.setitem(FAMILIES, "made-up", made_up.family(made_up.ALL))
    extra = {"local_rope_theta": made_up.LOCAL_THETA}
    config = replace(CONFIG, family="made-up", n_layers=len(made_up.LAYERS), extra=extra)
    path = tiny.write_gguf(tmp_path / "made-up.gguf", config, tiny.random_weights(config), quant)
    options: dict[str, Any] = {"max_batch_tokens": 32, "max_logits": 32}
    for compute in ("float32", "auto"):
        want = logits_of(load(path, compute=compute), TOKENS[:28])
        model = load(path, device="cuda", compute=compute, **options)
        got = logits_of(model, TOKENS[:28])
        exact = compute == "float32"
        error = np.abs(got - want)
        assert error.max() < (2e-5 * np.abs(want).max() if exact else 0.2 * want.std())
        step(model, [(1, 0, TOKENS[:27])])
        [decoded] = step(model, [(1, 27, TOKENS[27:28])])
        np.testing.assert_array_equal(decoded, got[27:28])


# ---- against itself ------------------------------------------------------------------------


def test_neighbours_and_chunks_change_no_bit(folder: Path, gpu: LLM) -> None:
    alone = [gpu.generate([prompt], GREEDY)[0] for prompt in PROMPTS]
    assert ids(gpu.generate(PROMPTS, GREEDY)) == ids(alone)
    model = gpu.model
    assert isinstance(model, Model)
    want = logits_of(model, TOKENS[:40])
    together = step(model, [(1, 0, TOKENS[:33]), (2, 0, TOKENS[:3]), (3, 0, TOKENS[:1])])
    for rows in together:
        np.testing.assert_array_equal(rows, want[: len(rows)])
    mixed = step(model, [(1, 33, TOKENS[33:40]), (2, 3, TOKENS[3:4])])
    np.testing.assert_array_equal(mixed[0], want[33:40])
    np.testing.assert_array_equal(mixed[1], want[3:4])
    decoded = step(model, [(2, 4, TOKENS[4:5]), (3, 1, TOKENS[1:2])])
    np.testing.assert_array_equal(np.concatenate(decoded), want[[4, 1]])


def test_a_small_step_and_few_blocks_change_no_text(folder: Path, gpu: LLM) -> None:
    options = {"max_batch_tokens": 20, "max_seqs": 2, "n_blocks": 3}
    with LLM(write(folder, "F32"), device="cuda", compute="float32", **options) as llm:
        assert llm.max_seq_len == 96
        prompts = [TOKENS[:30], TOKENS[3:33]]  # both grow into a second block: one must wait
        assert ids(llm.generate(prompts, GREEDY)) == ids(gpu.generate(prompts, GREEDY))


def test_decoding_replays(gpu: LLM) -> None:
    model = gpu.model
    assert isinstance(model, Model)
    gpu.generate(PROMPTS[2:], GREEDY)
    captured = dict(model.program(sample=True).captured)  # type: ignore[attr-defined]
    assert captured and all(bounds.decode for bounds in captured)
    gpu.generate(PROMPTS[2:], GREEDY)
    assert model.program(sample=True).captured == captured  # type: ignore[attr-defined]
    assert model.native_seconds > 0


# ---- what goes wrong -----------------------------------------------------------------------


def test_a_nan_ends_its_request_and_names_the_layer(folder: Path) -> None:
    config = replace(CONFIG, n_layers=2)
    weights = tiny.random_weights(config)
    weights["layers.1.wo"][3, 5] = np.nan
    path = tiny.write_gguf(folder / "nan.gguf", config, weights)
    with LLM(path, device="cuda", compute="float32", n_blocks=4, **OPTIONS) as llm:
        with pytest.raises(NumericalError, match=r"layer 1 \(matmul\)"):
            llm.generate([PROMPTS[2]], GREEDY)
        cache = llm.model.cache  # type: ignore[attr-defined]
        for array in (*cache.k, *cache.v):
            assert np.isfinite(llm.model.memory.to_host(array, 4)).all()
        assert not llm.model.memory.to_host(cache.k[0], 4).any()


def test_profile_names_every_call_and_close_frees(folder: Path) -> None:
    model = load(write(folder, "F32"), device="cuda", compute="float32", max_batch_tokens=8)
    logits_of(model, TOKENS[:2])
    rows = model.profile()
    assert {label for label, *_ in rows} == {"embedding", "layer 0", "output"}
    # The product of gate and up is done by glu.
    assert [op for _, op, _, time_us in rows if not time_us] == ["matmul.f32"]
    assert model.find_non_finite() == ""
    model.close()
    model.close()
    for use in (model.forward, model.profile, model.find_non_finite):
        with pytest.raises(ClosedError):
            use()


def test_inspection_is_refused(gpu: LLM) -> None:
    assert isinstance(gpu.model, Model)
    with pytest.raises(KernelError, match=r'on the CPU only.*device="cpu"'):
        inspect_step(gpu.model, TOKENS)


def test_what_does_not_fit_or_has_no_kernel_is_told_before_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = write(folder, "F32"), []
    options: dict[str, Any] = {"device": "cuda", "on_layer": told.append}
    with pytest.raises(
        KernelError, match=r"norm=numpy runs on the CPU; on the GPU there are triton"
    ):
        load(path, kernels="norm=numpy", **options)
    extras: dict[str, dict[str, Any]] = {
        "gather_rows": {"hidden_layers": (0,)},
        "low_rank": {"adapters": AdapterSlots(1, 1)},
        "residual": {},
        "qk_norm": {},
    }
    for op, extra in extras.items():
        with pytest.raises(KernelError, match=f"{op}=numpy runs on the CPU"):
            load(path, kernels=f"{op}=numpy", **options, **extra)
    monkeypatch.setattr("pyroclast.model.device.gpu_memory", lambda: (70 << 20, 200 << 20))
    with pytest.raises(MemoryBudgetError, match=r"128 cache blocks 512 KiB.*63 MiB can"):
        load(path, n_blocks=128, max_batch_tokens=10_000, **options)
    assert told == []


def test_a_driver_that_fails_while_loading_is_an_error_that_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("pyroclast_kernels.gpu.memory.DeviceMemory.weight", fail)
    with pytest.raises(KernelError, match="failed while the model was loaded: CUDA out of memory"):
        load(write(folder, "F32"), device="cuda")


def test_the_plan_counts_what_loading_takes(folder: Path) -> None:
    path = write(folder, "Q8_0")
    model = load(path, device="cuda", max_batch_tokens=16, max_logits=16, n_blocks=5)
    with open_checkpoint(path) as checkpoint:
        options = LoadOptions(max_batch_tokens=16, max_seqs=8, max_logits=16, n_blocks=5)
        counted = plan(checkpoint, "cuda", options).n_bytes
    weights = model._weights
    vectors: list[Any] = [weights.output_norm.weight]
    for layer in weights.layers:
        vectors += [
            layer.attn_norm.weight,
            layer.ffn_norm.weight,
            *(product.bias for product in layer.qkv),
        ]
    embedding = weights.token_embd.n_bytes
    assert counted["weights"] == embedding + weights.step_bytes + sum(v.nbytes for v in vectors)
    assert counted["cache"] == model.kv_bytes
