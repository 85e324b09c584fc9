"""Every bit behind a snapshot from disk is the same as when it is computed: gated DeltaNet,
convolutions and Mamba 2, whose states another `LLM` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from family_folders import FamilyFolders
from pyroclast import LLM, NumericalError, SamplingParams
from pyroclast.engine.cache_options import page_format
from pyroclast.engine.pages.record import HEADER_BYTES, PageFormat, checksum_of
from tiny_families import PROMPT

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

NAMES = ("qwen3_5@q8_0", "lfm2", "granite4-hybrid", "nemotron-h")
TEXT = PROMPT[:140]  # 4 whole pages of 32 and 12 tokens; snapshots behind 128 and 160
SAMPLED = SamplingParams(temperature=0.9, seed=11, max_tokens=24, ignore_eos=True)
Answer = tuple[list[int], NDArray[np.float32]]


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, family_folders: FamilyFolders) -> str:
    return family_folders.model(request.param)


def answer(llm: LLM, prompt: list[int]) -> tuple[Answer, int]:
    """The tokens and all logits that they were drawn from; how many tokens were not computed."""
    rows: list[NDArray[np.float32]] = []

    def keep(_: Any, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        rows.append(logits.copy())
        return logits

    [found] = llm.generate([prompt], SAMPLED.replace(logits_processors=[keep]))
    return (list(found.token_ids), np.stack(rows)), found.timings.n_cached_tokens


@pytest.fixture(scope="module")
def cold(folder: str) -> dict[int, Answer]:
    """By the length of the prompt."""
    with LLM(folder, prefix_cache=False, threads=1) as llm:
        return {n: answer(llm, PROMPT[:n])[0] for n in (70, 140, 182)}


@pytest.fixture
def cache_dir(folder: str, tmp_path: Path) -> Path:
    with LLM(folder, cache_dir=tmp_path, threads=2, max_batch_tokens=45) as llm:
        llm.generate([TEXT], SAMPLED)
    return tmp_path


def check(llm: LLM, cold: dict[int, Answer], n: int) -> int:
    found, n_cached = answer(llm, PROMPT[:n])
    assert found[0] == cold[n][0]
    np.testing.assert_array_equal(found[1].view(np.uint32), cold[n][1].view(np.uint32))
    return n_cached


def segment(llm: LLM, cache_dir: Path) -> tuple[Path, PageFormat]:
    """The first one of snapshots, while another may be being written."""
    format = page_format(llm.model).snapshots
    assert format is not None
    return min((cache_dir / format.digest.hex()).glob("*.pages")), format


def test_hits_misses_and_losses_have_the_same_bits(
    folder: str, cold: dict[int, Answer], cache_dir: Path
) -> None:
    with LLM(folder, cache_dir=cache_dir, threads=1) as llm:
        assert check(llm, cold, 140) == 128
        assert check(llm, cold, 182) == 128  # a longer text that begins the same
        assert llm.n_disk_pages == 4
        path, format = segment(llm, cache_dir)
    with LLM(folder, cache_dir=cache_dir, n_blocks=8, max_batch_tokens=30) as llm:
        assert check(llm, cold, 70) == 0  # shorter than what has a state: two pages, none behind
        assert llm.n_disk_pages == 0
    raw = bytearray(path.read_bytes())
    raw[HEADER_BYTES + format.record_header_bytes + 5] ^= 4
    path.write_bytes(raw)  # a snapshot is damaged
    with LLM(folder, cache_dir=cache_dir) as llm:
        assert check(llm, cold, 140) == 64  # which the text of 70 left
    for each in path.parent.iterdir():
        each.unlink()
    with LLM(folder, cache_dir=cache_dir) as llm:
        assert check(llm, cold, 140) == 0  # none is there
        assert llm.n_disk_pages == 0


def test_preemption_after_the_restore_changes_nothing(
    folder: str, cold: dict[int, Answer], cache_dir: Path
) -> None:
    """They share 4 blocks, and both take another one while they generate."""
    prompts = [PROMPT[:n] for n in (140, 182)]
    options: dict[str, Any] = {"n_blocks": 8, "max_batch_tokens": 64, "threads": 2}
    with LLM(folder, cache_dir=cache_dir, **options) as llm:
        found = llm.generate(prompts, SAMPLED)
        assert llm._loop.stepper.scheduler.n_preemptions > 0
        assert found[0].timings.n_cached_tokens == 128
    assert [list(each.token_ids) for each in found] == [cold[len(p)][0] for p in prompts]


def test_a_forged_state_of_nan_harms_its_own_text_once(
    folder: str, cold: dict[int, Answer], cache_dir: Path
) -> None:
    """Its checksums hold."""
    with LLM(folder, cache_dir=cache_dir, threads=1) as llm:
        path, format = segment(llm, cache_dir)
        raw = bytearray(path.read_bytes())
        for start in range(HEADER_BYTES, len(raw), format.record_bytes):
            content, end = start + format.record_header_bytes, start + format.record_bytes
            page, _ = format.read_record(bytes(raw[start:content]))
            raw[content:end] = np.full((end - content) // 4, np.nan, np.float32).tobytes()
            raw[start:content] = format.record_header(page, checksum_of([raw[content:end]]))
        path.write_bytes(raw)
    with LLM(folder, cache_dir=cache_dir, threads=1, n_blocks=12) as llm:
        with pytest.raises(NumericalError):
            answer(llm, TEXT)
        for n in (140, 70, 140, 182):
            check(llm, cold, n)
