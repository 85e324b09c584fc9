"""`LLM.update_weights`: the bits are those of a model that was loaded with the new weights."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lora_files
import tiny
import tiny_families
from pyroclast import LLM, AsyncLLM, SamplingParams
from pyroclast.errors import CacheFileError, ClosedError, RequestError
from pyroclast.model.write_packed import write_packed

PROMPT = np.random.default_rng(3).integers(0, 256, 70).tolist()
TIED = replace(tiny.BASE, tie_embeddings=True)
PARAMS = SamplingParams(temperature=0, max_tokens=4)


def same_bits(llm: LLM, other: str | Path, **options: Any) -> bool:
    with LLM(other, **options) as expected:
        return bool((llm.logits(PROMPT) == expected.logits(PROMPT)).all())


def folder(path: Path, seed: int, config: Any = TIED, dtype: str = "float32") -> Path:
    return tiny.write_folder(path, config, tiny.random_weights(config, seed), dtype)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return folder(tmp_path / "old", 1), folder(tmp_path / "new", 2)


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    return load_file(path / "model.safetensors")


@pytest.mark.parametrize("format", ["", "@q8_0", "@bf16"])
def test_every_weight_by_hf_names(pair: tuple[Path, Path], format: str) -> None:
    old, new = pair
    with LLM(f"{old}{format}") as llm:
        llm.update_weights(tensors_of(new))
        assert same_bits(llm, f"{new}{format}")


def test_every_weight_by_gguf_names(tmp_path: Path) -> None:
    import gguf

    paths = [tmp_path / f"{seed}.gguf" for seed in (1, 2)]
    for seed, path in enumerate(paths):
        tiny.write_gguf(path, tiny.BASE, tiny.random_weights(tiny.BASE, seed))
    found = {t.name: np.array(t.data) for t in gguf.GGUFReader(paths[1]).tensors}
    given = {n: v for n, v in found.items() if v.dtype == np.float32}
    assert given.keys() == found.keys()
    with LLM(paths[0]) as llm:
        llm.update_weights(given)
        assert same_bits(llm, paths[1])


def test_part_of_a_fused_product(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pair
    names = ["model.layers.1.self_attn.k_proj.weight", "model.norm.weight"]
    given = {name: tensors_of(new)[name] for name in names}
    mixed = folder(tmp_path / "mixed", 1)
    save_file(tensors_of(old) | given, mixed / "model.safetensors")
    with LLM(old) as llm:
        llm.update_weights(given)
        assert same_bits(llm, mixed)


@pytest.mark.oracle
@pytest.mark.parametrize("family", ["gemma3", "gpt2", "phi3", "qwen3-moe", "lfm2", "qwen3_5"])
def test_families_that_store_weights_in_other_ways(family: str, tmp_path: Path) -> None:
    import torch

    old, new = tmp_path / "old", tmp_path / "new"
    model = tiny_families.write_folder(old, family)
    tiny_families.write_folder(new, family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.75)
    model.save_pretrained(new)
    with LLM(old) as llm:
        llm.update_weights(model.state_dict())
        assert same_bits(llm, new)
        if family == "qwen3_5":  # whose files differ in more than names
            with pytest.raises(RequestError, match="loaded from a Hugging Face folder"):
                llm.update_weights({"blk.0.ssm_a": np.ones(4, np.float32)})


def test_no_cache_of_the_old_weights_is_used(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pair
    cache, state = tmp_path / "pages", tmp_path / "state"
    with LLM(old, cache_dir=cache) as llm:
        llm.generate([PROMPT], PARAMS)
        llm.save_state(state, PROMPT)
        llm.update_weights(tensors_of(new))
        [answer] = llm.generate([PROMPT], PARAMS)
        assert answer.timings.n_cached_tokens == 0
        with pytest.raises(CacheFileError, match="model"):
            llm.load_state(state)
        [again] = llm.generate([PROMPT], PARAMS)
        assert again.timings.n_cached_tokens > 0
    with LLM(new, cache_dir=cache) as other:  # what was computed since is the new model's
        [answer] = other.generate([PROMPT], PARAMS)
        assert answer.timings.n_cached_tokens > 0
        assert answer.token_ids == again.token_ids


def test_a_running_request_goes_on_with_the_new_weights(pair: tuple[Path, Path]) -> None:
    old, new = pair
    # Without drafts: a step that verifies them would be ahead of the chunks that were read.
    with LLM(old, speculation="off") as llm, LLM(new) as expected:
        stream = llm.stream(PROMPT, replace(PARAMS, max_tokens=6, ignore_eos=True))
        first = [next(stream).token_ids[0] for _ in range(2)]
        llm.update_weights(tensors_of(new))
        rest = [token_id for chunk in stream for token_id in chunk.token_ids]
        params = replace(PARAMS, ignore_eos=True)
        [answer] = expected.generate([PROMPT + first], params)
        assert rest[: len(answer.token_ids)] == list(answer.token_ids)


def test_an_async_llm_updates_while_it_runs(pair: tuple[Path, Path]) -> None:
    old, new = pair

    async def run() -> None:
        async with AsyncLLM(old) as llm:
            params = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)
            busy = asyncio.create_task(llm.generate(PROMPT, params))
            await asyncio.sleep(0)
            await llm.update_weights(tensors_of(new))
            await busy
            assert same_bits(llm.llm, new)

    asyncio.run(run())


BAD: list[tuple[str, Mapping[str, Any], str]] = [
    ("unknown", {"model.layers.9.mlp.up_proj.weight": np.ones((160, 96))}, "layers.9"),
    ("shape", {"model.norm.weight": np.ones(95, np.float32)}, r"model.norm.weight.*\(95,\)"),
    ("nan", {"model.norm.weight": np.full(96, np.nan)}, "model.norm.weight.*NaN"),
    ("overflow", {"model.norm.weight": np.full(96, 1e300)}, "model.norm.weight.*infinity"),
    ("dtype", {"model.norm.weight": np.ones(96, np.int8)}, "model.norm.weight.*int8"),
    ("empty", {}, "empty"),
    ("head", {
        "lm_head.weight": np.ones((320, 96)), "model.embed_tokens.weight": np.zeros((320, 96)),
    }, "lm_head.weight.*embedding"),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "said"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_failed_update_leaves_the_old_weights(
    tensors: Mapping[str, Any], said: str, pair: tuple[Path, Path]
) -> None:
    old = pair[0]
    with LLM(old) as llm:
        good = {"model.layers.0.mlp.up_proj.weight": np.ones((160, 96))} if tensors else {}
        with pytest.raises(RequestError, match=said):
            llm.update_weights(good | dict(tensors))
        assert same_bits(llm, old)


def test_what_cannot_be_updated(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pair
    packed = tmp_path / "old.pyro"
    write_packed(str(old), str(packed), "f16")
    with LLM(packed) as llm, pytest.raises(RequestError, match="packed file"):
        llm.update_weights(tensors_of(new))
    with LLM(f"{old}@f16") as llm, pytest.raises(RequestError, match=r"up_proj.*65504"):
        llm.update_weights({"model.layers.0.mlp.up_proj.weight": np.full((160, 96), 1e5)})
    with pytest.raises(ClosedError):
        llm.update_weights(tensors_of(new))
    with LLM(old) as llm, pytest.raises(RequestError, match="state_dict"):
        llm.update_weights([1.0])  # type: ignore[arg-type]


def test_ctrl_c_in_the_middle_leaves_the_new_weights_whole(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = pair
    with LLM(old) as llm:
        real, calls = llm.model.memory.refill, []

        def interrupted(constant: Any, values: Any) -> None:
            calls.append(constant)
            if len(calls) == 2:
                raise KeyboardInterrupt
            real(constant, values)

        monkeypatch.setattr(llm.model.memory, "refill", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.update_weights(tensors_of(new))
        assert same_bits(llm, new)


def adapter(path: Path, seed: int) -> tuple[Path, dict[str, np.ndarray]]:
    pairs = lora_files.random_pairs(TIED, seed=seed)
    lora_files.write_peft(path, pairs, alpha=6)
    return path, load_file(path / "adapter_model.safetensors")


def test_an_adapter_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base = pair[0]
    (one, _), (two, tensors) = adapter(tmp_path / "one", 1), adapter(tmp_path / "two", 2)
    in_model = {n.replace(".weight", ".default.weight"): v for n, v in tensors.items()}
    with LLM(base, adapters={"a": one}) as llm, LLM(base, adapters={"a": two}) as expected:
        llm.generate([PROMPT], PARAMS, adapter="a")
        for given in (tensors, in_model):
            llm.update_weights(given, adapter="a")
            [answer] = llm.generate([PROMPT], PARAMS, adapter="a")
            assert answer.timings.n_cached_tokens == 0
            found, wanted = (each.logits(PROMPT, adapter="a") for each in (llm, expected))
            assert (found == wanted).all()
        assert (llm.logits(PROMPT) == expected.logits(PROMPT)).all()


def test_what_no_adapter_takes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    path, tensors = adapter(tmp_path / "one", 1)
    first = next(name for name in tensors if "lora_A" in name)
    other = first.replace("lora_A", "lora_B")
    without = {name: value for name, value in tensors.items() if name not in (first, other)}
    alone = {name: value for name, value in tensors.items() if name != other}
    with LLM(pair[0], adapters={"a": path}) as llm:
        before = llm.logits(PROMPT, adapter="a")
        for given, name, said in (
            (tensors, "b", "no adapter 'b'"),
            (without, "a", "do not change"),
            (alone, "a", "no partner"),
            ({"x.weight": tensors[first]}, "a", "x.weight.*plain LoRA"),
            ([], "a", "name"),
        ):
            with pytest.raises(RequestError, match=said):
                llm.update_weights(given, adapter=name)  # type: ignore[arg-type]
        assert (llm.logits(PROMPT, adapter="a") == before).all()


def test_an_update_waits_for_the_step_of_another_thread(pair: tuple[Path, Path]) -> None:
    old, new = pair
    with LLM(old) as llm:
        params = SamplingParams(temperature=0, max_tokens=150, ignore_eos=True)
        other = threading.Thread(target=lambda: llm.generate([PROMPT], params))
        other.start()
        llm.update_weights(tensors_of(new))
        other.join()
        assert same_bits(llm, new)
