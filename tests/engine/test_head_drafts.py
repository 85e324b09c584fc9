"""Drafts of a model's own head: what the head computes, and that no bit of a text changes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from babble import accepted, drafted, plain
from draft_heads import (
    D_MODEL,
    N_CYCLE,
    Tensors,
    eager,
    head_rows,
    random_tensors,
    rigged_tensors,
    write_folder,
)
from gguf_families import write_gguf
from pyroclast import LLM, MemoryBudgetError, ModelFileError, RequestError, SamplingParams
from pyroclast.checkpoint.drafting import folded, with_draft_head
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.checkpoint.parts import StoredTensor
from pyroclast.engine.draft_options import DraftOptions
from pyroclast.errors import CacheFileError, UnsupportedModelError
from pyroclast.families.qwen3_5 import QWEN3_5
from pyroclast.model import kv_cache
from pyroclast.model.adapters import AdapterSlots
from pyroclast.model.draft_head import DraftHead
from pyroclast.model.inspect import inspect_step
from pyroclast.model.model import Model, load_model
from pyroclast_kernels.program import Program
from pyroclast_kernels.weights import formats
from stepping import step

TOKENS = np.random.default_rng(5).integers(0, 320, 75).tolist()
TOLERANCE = 1e-4  # of the largest logit: float32 sums in another order
PARAMS = SamplingParams(temperature=0.7, seed=3, max_tokens=50, ignore_eos=True, logprobs=2)
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The same random model in both file formats; and rigged ones, see `rigged_tensors`."""
    root = tmp_path_factory.mktemp("heads")
    folder = write_folder(root / "random", random_tensors())
    return {
        "folder": folder,
        "gguf": write_gguf(root / "random.gguf", folder),
        "gguf in q8_0": write_gguf(root / "q8_0.gguf", folder, "Q8_0"),
        "right": write_folder(root / "right", rigged_tensors(stumbles=False)),
        "stumbling": write_folder(root / "stumbling", rigged_tensors(stumbles=True)),
    }


def on(path: Path, **options: Any) -> LLM:
    return eager(LLM(path, speculation="mtp", **{"threads": 1, **options}))


def off(path: Path, **options: Any) -> LLM:
    return LLM(path, speculation="off", threads=1, prefix_cache=False, **options)


# ---- what the head computes -------------------------------------------------------------------


def run_head(model: Model, texts: list[tuple[int, list[int]]], rows: list[int]) -> list[Any]:
    """Logits of the head at the last token of each (sequence, text), whose blocks and slots are
    those of `stepping.step`; rows: where what is before that token comes from."""
    head = model.draft_head
    assert isinstance(head, DraftHead)
    batch, n = head.batch, len(texts)
    for i, (seq, text) in enumerate(texts):
        batch.token_ids[i], batch.positions[i] = text[-1], len(text) - 1
        table = seq + 8 * np.arange(min(batch.max_blocks, (model.n_blocks - seq) // 8))
        batch.block_tables[i, : len(table)] = table
    batch.seq_index[:n] = batch.logit_rows[:n] = range(n)
    batch.seq_starts[: n + 1] = range(n + 1)
    batch.slots_in[:n], batch.slots_out[:n] = rows, -1
    batch.counts[:] = n
    program = Program(head._calls, None)
    for call in range(len(program.calls)):
        program.run_one(call)
    return list(head.logits[:n].copy())


@pytest.mark.parametrize("name", ["folder", "gguf"])
@pytest.mark.parametrize("sizes", [[74], [1] * 4 + [31, 2, 37]], ids=len)
def test_the_head_computes_what_numpy_says(files: Folders, name: str, sizes: list[int]) -> None:
    """The first draft by the model's state, the next two by the head's own; with a neighbour, and
    over the ends of blocks."""
    options = {"compute": "float32", "max_seqs": 8, "n_blocks": 128, "max_logits": 256}
    with open_checkpoint(files[name], draft_head=True) as checkpoint:
        model = load_model(checkpoint, max_batch_tokens=256, hidden_layers=("final",), **options)
    states, first = [np.zeros((1, D_MODEL))], 0
    step(model, [(1, 0, TOKENS[40:53])])
    for size in sizes:
        step(model, [(3, first, TOKENS[first : first + size])])
        states.append(model.hidden[0, :size].astype(np.float64))
        first += size
    before = np.concatenate(states)
    text, other = list(TOKENS), [*TOKENS[40:53], 9]
    rows = [3, 1]
    for n_drafts in range(3):
        got = run_head(model, [(3, text), (1, other)], rows)[0]
        logits, normed = head_rows(random_tensors(), text, before)
        assert np.abs(got - logits[-1]).max() < TOLERANCE * np.abs(logits[-1]).max(), n_drafts
        before = np.concatenate([before, normed[-1:]])
        text, other = [*text, int(np.argmax(got))], [*other, 7]
        rows = [model.n_slots, model.n_slots + 1]


def test_quantized_heads_are_near_float32(files: Folders) -> None:
    """Both halves of a row of eh_proj are whole blocks."""
    found = {}
    for name in ("gguf", "gguf in q8_0"):
        with open_checkpoint(files[name], draft_head=True) as checkpoint:
            formats_of = {name: t.format for name, t in checkpoint.tensors.items()}
            model = load_model(checkpoint, max_batch_tokens=256, max_seqs=8, max_logits=256)
        step(model, [(3, 0, TOKENS[:-1])])
        found[name] = run_head(model, [(3, TOKENS)], [3])[0]
    assert formats_of["layers.4.w_draft_hidden"] == formats_of["layers.4.wq"] == "q8_0"
    got, want = found["gguf in q8_0"], found["gguf"]
    assert 0 < np.linalg.norm(got - want) < 0.1 * np.linalg.norm(want)


def test_an_inspection_leaves_the_head_s_state_as_it_was(files: Folders) -> None:
    with open_checkpoint(files["folder"], draft_head=True) as checkpoint:
        model = load_model(checkpoint, max_batch_tokens=256, max_seqs=8, max_logits=256)
    step(model, [(3, 0, TOKENS[:-1])])
    before = run_head(model, [(3, TOKENS)], [3])[0]
    found = inspect_step(model, TOKENS[:9], blocks=[100], logits=True)
    assert len(found.layers) == model.config.n_layers
    np.testing.assert_array_equal(run_head(model, [(3, TOKENS)], [3])[0], before)


def test_adapters_change_the_model_and_not_its_head(files: Folders) -> None:
    rng, found = np.random.default_rng(1), []
    pair = [rng.standard_normal(size).astype(np.float32) for size in ((2, D_MODEL), (96, 2))]
    for has_head in (False, True):
        with open_checkpoint(files["folder"], draft_head=has_head) as checkpoint:
            model = load_model(
                checkpoint, adapters=AdapterSlots(1, 2), max_batch_tokens=256, max_logits=256
            )
        model.adapters.set(0, {"layers.3.wq": (pair[0], pair[1])}, 1.0)
        with pytest.raises(RequestError, match=r"changes 'layers\.4\.wq'; the model's slots"):
            model.adapters.set(0, {"layers.4.wq": (pair[0], pair[1])}, 1.0)
        for slot in (None, 0):  # of the step before, whose sequences are alike
            step(model, [(0, 0, TOKENS)])
            model.adapters.assign([slot])
            found.append(step(model, [(0, 0, TOKENS)])[0])
    np.testing.assert_array_equal(found[:2], found[2:])
    assert (found[0] != found[1]).any()


# ---- the same text ----------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "logprobs": 2},
    "sampled": {"logprobs": 2},
    "cuts": {"top_p": 0.9, "top_k": 8, "logprobs": 1},
    "penalties": {"frequency_penalty": 0.3, "repetition_penalty": 1.1, "logprobs": 1},
    "stop string": {"temperature": 0, "stop": (chr(40) + chr(41), "QR")},
    "grammar": {"structured": {"regex": "[ -Y]{9,60}"}, "logprobs": 1},
    "forced text": {"structured": {"regex": "(([ -9]{3}|ABCDE){2}[K-X]{4}){2,9}"}},
}


@pytest.mark.parametrize("name", CASES)
def test_the_text_is_the_same(files: Folders, name: str) -> None:
    """Two completions each of prompts of several blocks, side by side."""
    path = files["stumbling"]
    params = SamplingParams(
        **{"temperature": 0.5, "seed": 3, "max_tokens": 50, "n": 2} | CASES[name]
    )
    prompts = [[*range(30, 30 + n)] for n in (3, 34, 60)]
    with off(path) as llm:
        expected = llm.generate(prompts, params)
    with on(path) as llm:
        found = llm.generate(prompts, params)
        assert plain(found) == plain(expected)
        assert plain(llm.generate(prompts, params)) == plain(expected)  # cached pages
    assert 0 < accepted(found) < drafted(found)
    assert drafted(found) == sum(each.timings.drafts["mtp"].n_drafted for each in found)


@pytest.mark.parametrize("name", ["folder", "gguf in q8_0"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threads": 3, "max_batch_tokens": 21},
        {"n_blocks": 9},
        {"kv_dtype": "q8_0"},
        {"max_seqs": 2},
    ],
    ids=str,
)
def test_logprobs_have_the_same_bits(files: Folders, name: str, options: dict[str, Any]) -> None:
    """Of a random model and head, in any batch, chunks and threads, preempted or not, and behind
    cached pages."""
    prompts = [TOKENS, TOKENS[:40], TOKENS[30:33], TOKENS[:64]]
    kv_dtype = options.get("kv_dtype", "auto")
    with off(files[name], kv_dtype=kv_dtype) as llm:
        expected = llm.generate(prompts, PARAMS)
    with on(files[name], **options) as llm:
        found = llm.generate(prompts, PARAMS)
        assert plain(found) == plain(expected)
        again = llm.generate([*TOKENS[:70]], PARAMS)
        n_preemptions = llm._loop.stepper.scheduler.n_preemptions
    assert drafted(found) > 0
    assert n_preemptions or "n_blocks" not in options
    with off(files[name], kv_dtype=kv_dtype) as llm:
        assert plain(llm.generate([*TOKENS[:70]], PARAMS)) == plain(again)
    assert again[0].timings.n_cached_tokens == 64


# ---- drafts that are right --------------------------------------------------------------------

GREEDY = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)


def cycle(first: int, n: int) -> list[int]:
    return [(first + i) % N_CYCLE for i in range(n)]


@pytest.mark.parametrize("options", [{}, {"max_batch_tokens": 9}, {"n_blocks": 9}], ids=str)
def test_a_head_that_sees_the_state_before_is_always_right(
    files: Folders, options: dict[str, Any]
) -> None:
    """So each draft got the state of the right position, whatever came between."""
    prompts = [cycle(3, 5), cycle(50, 40), cycle(3, 70)]
    with on(files["right"], **options) as llm:
        for _ in range(2):
            found = llm.generate(prompts, GREEDY)
            assert [list(each.token_ids) for each in found] == [
                cycle(each[-1] + 1, 100) for each in prompts
            ]
            assert accepted(found) == drafted(found) > 100
        assert found[2].timings.n_cached_tokens == 64
        assert llm._loop.stepper.scheduler.n_preemptions or "n_blocks" not in options


def test_what_a_wrong_draft_left_is_gone(files: Folders) -> None:
    """Every seventh token misleads the head; all drafts behind a right token are right again."""
    with on(files["stumbling"]) as llm:
        [found] = llm.generate([cycle(1, 3)], GREEDY)
    assert list(found.token_ids) == cycle(4, 100)
    # A step ends at a token that misleads, or where drafts end.
    assert accepted([found]) > 75


def test_the_head_pays_by_the_clock(files: Folders) -> None:
    """As LLM makes it, without a clock of the test: some drafts are tried and are right."""
    with LLM(files["right"], threads=1, speculation="mtp") as llm:
        found = llm.generate([cycle(3, 5)] * 2, GREEDY.replace(max_tokens=200))
    assert accepted(found) == drafted(found) > 0
    assert list(found[0].token_ids) == cycle(8, 200)


# ---- what goes wrong --------------------------------------------------------------------------


def test_a_head_of_nan_changes_no_text(tmp_path: Path) -> None:
    tensors = random_tensors()
    tensors["mtp.norm.weight"] = np.full(D_MODEL, np.nan, np.float32)
    path = write_folder(tmp_path / "nan", tensors)
    with off(path) as llm:
        expected = llm.generate([TOKENS, TOKENS[:9]], PARAMS)
    with on(path) as llm:
        found = llm.generate([TOKENS, TOKENS[:9]], PARAMS)
    assert plain(found) == plain(expected)
    assert drafted(found) == 0


@pytest.mark.parametrize("n", [1, 2, 5])
def test_an_interrupted_draft_is_forgotten(files: Folders, n: int) -> None:
    with on(files["right"]) as llm:
        head, left = llm.model.draft_head, [n]
        assert head is not None
        forward: Callable[[bool], None] = head.forward

        def broken(sample: bool = True) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            forward(sample)

        head.forward = broken  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            llm.generate([cycle(3, 40)], GREEDY)
        [found] = llm.generate([cycle(3, 40)], GREEDY)
        assert list(found.token_ids) == cycle(43, 100)
        assert accepted([found]) == drafted([found]) > 50


def test_new_weights_of_the_model_change_the_text_alike(files: Folders) -> None:
    changed = {"model.norm.weight": random_tensors(9)["model.norm.weight"]}
    with off(files["folder"]) as llm:
        llm.update_weights(changed)
        expected = llm.generate([TOKENS], PARAMS)
    with on(files["folder"]) as llm:
        llm.generate([TOKENS], PARAMS)
        llm.update_weights(changed)
        assert plain(llm.generate([TOKENS], PARAMS)) == plain(expected)


def test_a_saved_state_holds_the_head_s_part(files: Folders, tmp_path: Path) -> None:
    with on(files["right"]) as llm:
        assert llm.save_state(tmp_path / "state", cycle(3, 70)) == 64
    with on(files["right"]) as llm:
        assert llm.load_state(tmp_path / "state") == 64
        [found] = llm.generate([cycle(3, 70)], GREEDY)
        assert found.timings.n_cached_tokens == 64
        assert accepted([found]) == drafted([found]) > 50
    with LLM(files["right"], threads=1) as llm, pytest.raises(CacheFileError):
        llm.load_state(tmp_path / "state")


def test_a_snapshot_on_disk_holds_the_head_s_part(files: Folders, tmp_path: Path) -> None:
    params = GREEDY.replace(seed=1, logprobs=2)
    with off(files["right"]) as llm:
        expected = plain(llm.generate([cycle(3, 70)], params))
    for n_cached in (0, 64):
        with on(files["right"], cache_dir=tmp_path) as llm:
            found = llm.generate([cycle(3, 70)], params)
        assert plain(found) == expected
        assert found[0].timings.n_cached_tokens == n_cached
        assert accepted(found) == drafted(found) > 50
    with LLM(files["right"], threads=1, cache_dir=tmp_path) as llm:  # another model's
        assert llm.generate([cycle(3, 70)], params)[0].timings.n_cached_tokens == 0


# ---- where it is on ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["folder", "gguf"])
def test_a_head_that_is_not_asked_for_costs_nothing(files: Folders, name: str) -> None:
    with LLM(files[name], threads=1, n_blocks=8) as llm:
        plan, calls = llm.model.plan, llm.model.program().calls  # type: ignore[attr-defined]
        assert llm.model.draft_head is None and llm.model.config.draft_layer is None
    assert not any(call.label == "draft head" for call in calls)
    with LLM(files[name], threads=1, n_blocks=8, speculation="mtp") as llm:
        asked = llm.model.plan  # type: ignore[attr-defined]
    for what in ("weights", "states", "cache"):
        assert asked.n_bytes[what] > plan.n_bytes[what], what


def test_the_memory_of_the_head_is_counted(files: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(files["folder"], threads=1, n_blocks=8) as llm:
        n_bytes = sum(llm.model.plan.n_bytes.values())  # type: ignore[attr-defined]
    monkeypatch.setattr(kv_cache, "available_bytes", lambda: n_bytes)
    LLM(files["folder"], threads=1, n_blocks=8).close()
    with pytest.raises(MemoryBudgetError):
        LLM(files["folder"], threads=1, n_blocks=8, speculation="mtp")


def test_a_model_without_a_head_says_what_it_can_have(tmp_path: Path) -> None:
    tensors = {name: t for name, t in random_tensors().items() if not name.startswith("mtp.")}
    path = write_folder(tmp_path / "text", tensors)
    words = r'no head .* (speculation="suffix") .* second model (LLM(..., draft=MODEL))'
    for model in (path, "dummy:smollm2-135m:1@q4_0"):
        with pytest.raises(RequestError) as error:
            LLM(model, threads=1, speculation="mtp")
        for word in words.split(" .* "):
            assert word in str(error.value)


def test_the_head_needs_the_cpu() -> None:
    with pytest.raises(RequestError, match='speculation="mtp" needs the CPU, but the GPU was'):
        DraftOptions("mtp").load("no such file.gguf", "cuda", {})
    with pytest.raises(RequestError, match='needs speculation "auto" or "draft", got \'mtp\''):
        DraftOptions("mtp", "small.gguf")


def changed(**changes: NDArray[np.float32] | None) -> Tensors:
    names = {f"mtp.{name.replace('__', '.')}.weight": each for name, each in changes.items()}
    found = {**random_tensors(), **{n: each for n, each in names.items() if each is not None}}
    return {n: each for n, each in found.items() if names.get(n, each) is not None}


@pytest.mark.parametrize(
    ("tensors", "error", "words"),
    [
        (changed(norm=None), ModelFileError, "mtp.norm.weight' is missing"),
        (changed(fc=None), ModelFileError, "mtp.fc.weight' is missing"),
        (changed(fc=np.zeros((96, 96), "f4")), ModelFileError, r"has shape \(192, 48\)"),
        (changed(fc=np.zeros((96, 95), "f4")), ModelFileError, "an even width, got 95"),
        (changed(layers__1__mlp=np.zeros(2, "f4")), UnsupportedModelError, "have no place in a"),
        (changed(embed_tokens=np.zeros((2, 2), "f4")), UnsupportedModelError, "have no place"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_heads_that_lie(
    tmp_path: Path, tensors: Tensors, error: type[Exception], words: str
) -> None:
    path = write_folder(tmp_path / "folder", tensors)
    with pytest.raises(error, match=words):
        open_checkpoint(path, draft_head=True)
    open_checkpoint(path).close()  # nobody asked for the head


def test_several_heads_are_refused(files: Folders) -> None:
    with open_checkpoint(files["gguf"]) as checkpoint:
        h = checkpoint.hyperparameters
    two = replace(h, extra={**h.extra, "n_draft_layers": 2})
    with pytest.raises(UnsupportedModelError, match=r"2 layers that predict .* a single one"):
        with_draft_head(two, ["blk.4.attn_q.weight"])
    cut_off = with_draft_head(h, ["blk.3.attn_q.weight"])  # the key alone is no head
    assert not cut_off.flag("draft_head", False)


def test_closing_an_llm_frees_its_head(files: Folders) -> None:
    llm = on(files["right"])
    head = llm.model.draft_head
    assert head is not None
    decoder = weakref.ref(head._decoder)
    del head
    llm.close()
    llm.close()
    gc.collect()
    assert decoder() is None


def test_blocks_that_a_half_would_cut() -> None:
    name = "blk.4.nextn.eh_proj.weight"
    assert formats.FORMATS["q4_k"].block_columns == 256
    tensor = StoredTensor(name, (128, 256), "Q4_K", "q4_k", None, 0)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModelError, match="blocks of 256 columns, which its halves of"):
        folded({name: tensor}, QWEN3_5)
