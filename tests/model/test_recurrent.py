"""Models with recurrent layers: the same bits alone, in a batch, in any chunks, on any threads, and
from any state that was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from family_folders import FamilyFolders
from gguf_families import write_gguf
from pyroclast import LLM, SamplingParams
from pyroclast.errors import CacheFileError, UnsupportedModelError
from pyroclast.lab.peers.fidelity import divergence
from pyroclast.model.inspect import Inspector, inspect_step
from pyroclast.model.write_packed import write_packed
from stepping import load, logits_of, step
from tiny_families import PROMPT

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

NAMES = ("lfm2-moe@q8_0", "qwen3_5", "qwen3_5@q8_0", "nemotron-h-moe@q8_0")
TOKENS = PROMPT[:75]
# A recurrence in NumPy has the bits of its loop; products are compiled.
RULES = "frozen"
SAMPLED = SamplingParams(temperature=0.9, seed=11, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, family_folders: FamilyFolders) -> str:
    return family_folders.model(request.param)


@pytest.fixture(scope="module")
def expected(folder: str) -> NDArray[np.float32]:
    return logits_of(load(folder, kernels=RULES, threads=1), TOKENS)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("sizes", [[1] * 75, [2, 30, 1, 42], [64, 11], [75]], ids=len)
def test_chunks_and_threads_do_not_change_a_bit(
    folder: str, expected: NDArray[np.float32], sizes: list[int], threads: int
) -> None:
    model, found, first = load(folder, kernels=RULES, threads=threads), [], 0
    for size in sizes:
        found += step(model, [(3, first, TOKENS[first : first + size])])
        first += size
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_neighbours_do_not_change_a_bit(folder: str, expected: NDArray[np.float32]) -> None:
    model = load(folder, kernels=RULES, threads=2)
    other = PROMPT[200:290]
    step(model, [(5, 0, other[:20])])
    a = step(model, [(1, 0, other[40:41]), (2, 0, TOKENS[:33]), (5, 20, other[20:60])])[1]
    b = step(model, [(5, 60, other[60:61]), (2, 33, TOKENS[33:]), (0, 0, other[:9])])[1]
    np.testing.assert_array_equal(np.concatenate([a, b]), expected)


def answers(llm: LLM, prompts: list[list[int]], params: Any = SAMPLED) -> list[list[int]]:
    return [list(each.token_ids) for each in llm.generate(prompts, params)]


@pytest.mark.parametrize(
    "options",
    [{"threads": 2, "max_batch_tokens": 45}, {"n_blocks": 9}, {"speculation": "suffix"}],
    ids=str,
)
def test_text_is_the_same_alone_and_in_any_batch(folder: str, options: dict[str, Any]) -> None:
    prompts = [TOKENS, PROMPT[100:140], TOKENS[:70], PROMPT[100:164], [5, 6] * 20]
    fixed: dict[str, Any] = {"kernels": RULES, "threads": 1}
    with LLM(folder, **fixed, prefix_cache=False, max_seqs=1) as plain:
        alone = [answers(plain, [prompt])[0] for prompt in prompts]
    with LLM(folder, **{**fixed, **options}) as llm:
        assert answers(llm, prompts) == alone
        assert answers(llm, prompts[::-1]) == alone[::-1]  # from kept states
        assert llm.generate([TOKENS], SAMPLED)[0].timings.n_cached_tokens == 64
        scheduler = llm._loop.stepper.scheduler
        assert (scheduler.n_preemptions > 0) == ("n_blocks" in options)


def test_logits_behind_a_kept_state_have_the_same_bits(folder: str) -> None:
    with LLM(folder, kernels=RULES, prefix_cache=False) as llm:
        want = llm.logits(PROMPT[:120])
    with LLM(folder, kernels=RULES) as llm:
        answers(llm, [PROMPT[:100]])
        scored = llm.score([PROMPT[:100]], [PROMPT[100:120]])[0]
        assert llm.generate([PROMPT[:110]], SAMPLED)[0].timings.n_cached_tokens == 96
    logits = want[99:-1].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    got = [each.logprob for each in scored.logprobs[-20:] if each is not None]
    np.testing.assert_allclose(got, logprobs[np.arange(20), PROMPT[100:120]], atol=1e-4)


def test_a_long_context_takes_no_more_memory_for_its_states(folder: str) -> None:
    short, long = (load(folder, n_blocks=n) for n in (8, 32))
    assert short.plan.n_bytes["states"] == long.plan.n_bytes["states"] > 0
    assert 4 * short.plan.n_bytes["cache"] == long.plan.n_bytes["cache"]
    n_attention = len(long.config.attentions)
    assert 0 < n_attention < long.config.n_layers
    assert len(long.block_arrays(0)) == 2 * n_attention


def test_an_inspection_leaves_states_as_they_were(folder: str) -> None:
    model = load(folder, kernels=RULES, threads=1)
    step(model, [(0, 0, TOKENS[:40])])
    want = step(model, [(0, 40, TOKENS[40:])])
    step(model, [(0, 0, TOKENS[:40])])
    found = inspect_step(model, PROMPT[:9], blocks=[100], logits=True)
    got = step(model, [(0, 40, TOKENS[40:])])
    np.testing.assert_array_equal(got, want)
    recurrent = next(i for i, spec in enumerate(model.config.layers) if spec.recurrent)
    assert found.layers[recurrent].probs.shape[0] == 0
    assert np.abs(found.layers[recurrent].from_attention).max() > 0
    last = found.layers[model.config.n_layers - 1].logits
    np.testing.assert_array_equal(last, logits_of(model, PROMPT[:9]))


def test_the_search_for_a_nan_leaves_states_as_they_were(folder: str) -> None:
    """It runs the step once more, which has read its neighbours' states and written them."""
    model = load(folder, kernels=RULES, threads=1)
    for first, end in ((0, 40), (40, 41)):
        step(model, [(slot, first, TOKENS[first:end]) for slot in (2, 1)])
    before = [array.copy() for slot in (1, 2) for array in model.slot_arrays(slot)]
    assert model.find_non_finite() == ""
    after = [array for slot in (1, 2) for array in model.slot_arrays(slot)]
    for array, want in zip(after, before, strict=True):
        np.testing.assert_array_equal(array, want)


def test_8_bit_activations_are_near_float32(folder: str) -> None:
    """Heads of 16 values share a block of 32 here, so that an op of its own has to quantize."""
    with LLM(folder, compute="float32") as llm:
        want = llm.logits(TOKENS)
    with LLM(folder) as llm:
        got = llm.logits(TOKENS)
    assert divergence(want, got)[0].mean() < 0.08


def test_a_saved_state_holds_that_of_recurrent_layers(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    with LLM(folder, kernels=RULES) as llm:
        answers(llm, [PROMPT[:129]])  # leaves pages without the state behind them
        assert llm.save_state(path, TOKENS) == 64
        assert llm.save_state(tmp_path / "whole", TOKENS[:64]) == 64
        [want] = answers(llm, [TOKENS])
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    with LLM(folder, kernels=RULES) as llm:
        assert llm.load_state(path) == 64
        [found] = llm.generate([TOKENS], SAMPLED)
        assert (list(found.token_ids), found.timings.n_cached_tokens) == (want, 64)
        damaged = bytearray(path.read_bytes())
        damaged[-40] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CacheFileError, match="state of the recurrent layers is damaged"):
            llm.load_state(path)
        path.write_bytes(damaged[:-1])
        with pytest.raises(CacheFileError, match="cut short"):
            llm.load_state(path)


@pytest.mark.parametrize("name", ["lfm2-moe", "qwen3_5"])
def test_a_packed_file_has_the_bits_of_its_gguf_file(
    tmp_path: Path, family_folders: FamilyFolders, name: str
) -> None:
    path = write_gguf(tmp_path / "m.gguf", family_folders(name), "Q8_0")
    write_packed(str(path), str(tmp_path / "m.pyro"))
    packed, plain = (load(tmp_path / each, kernels=RULES) for each in ("m.pyro", "m.gguf"))
    np.testing.assert_array_equal(logits_of(packed, TOKENS), logits_of(plain, TOKENS))


def test_an_adapter_in_a_gguf_file_is_refused(folder: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", Path(folder.partition("@")[0]))
    with pytest.raises(UnsupportedModelError, match="adapters in GGUF files are not read"):
        LLM(folder, adapters={"a": path})


def test_steps_between_the_pieces_of_an_inspection_change_nothing(folder: str) -> None:
    model = load(folder, kernels=RULES, threads=1)
    want = inspect_step(model, TOKENS[:40], logits=True)
    inspector = Inspector(model, TOKENS[:40], logits=True)
    for first in (0, 16, 32):
        inspector.read(first, min(16, 40 - first), [4, 5])
        step(model, [(0, 0, PROMPT[200:220])])  # its state is where the inspection's was
    for number, layer in inspector.found.layers.items():
        np.testing.assert_array_equal(layer.state, want.layers[number].state)
        np.testing.assert_array_equal(layer.logits, want.layers[number].logits)
