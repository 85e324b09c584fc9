"""States of recurrent layers on disk, on the fake model: what a new process goes on from, what it
refuses, and that every text is the one that it would be without a disk."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_model import FakeModel, hashed
from pyroclast import LLM, CacheFileError, SamplingParams
from pyroclast.engine.pages import writer as writers
from pyroclast.engine.pages.folder import Segment
from pyroclast.engine.pages.record import HEADER_BYTES, PageFormat
from pyroclast.engine.state_slots import NO_STATE
from pyroclast.model.cache_identity import CacheIdentity
from recurrent_model import RecurrentModel, recurrent_llm

pytestmark = pytest.mark.usefixtures("warnings_are_seen")

GREEDY = SamplingParams(temperature=0, max_tokens=11, ignore_eos=True)
PROMPT = random.Random(1).choices(range(250), k=30)  # 7 full blocks of 4; 10 with the answer
STATE_BYTES = 8 * (1 + 128)
IDENTITY = CacheIdentity(b"m" * 16, b"k" * 16, "f32", 4, 32)
PAGES = PageFormat(IDENTITY, STATE_BYTES)
SNAPSHOTS = PAGES.snapshots
assert SNAPSHOTS is not None
RECORD = SNAPSHOTS.record_bytes


def greedy(prompt: Sequence[int]) -> list[int]:
    text = list(prompt)
    for _ in range(11):
        text.append(int(np.argmax(hashed(text))))
    return text[len(prompt) :]


def check(llm: LLM, *prompts: list[int]) -> list[int]:
    """That each answer is right, and no slot is lost; how many tokens of each prompt were not
    computed."""
    found = llm.generate(list(prompts), GREEDY)
    states, nodes = llm._prefixes.states, llm._prefixes._nodes.values()
    assert states is not None
    assert states.n_free + sum(node.state != NO_STATE for node in nodes) == states.n_slots
    for prompt, completion in zip(prompts, found, strict=True):
        assert list(completion.token_ids) == greedy(prompt)
    return [completion.timings.n_cached_tokens for completion in found]


def run(cache_dir: Path, *prompts: list[int], **options: Any) -> list[int]:
    """The same, one after the other, in an LLM of their own."""
    with recurrent_llm(cache_dir=cache_dir, **options) as llm:
        return [check(llm, prompt)[0] for prompt in prompts]


def files(cache_dir: Path, format: PageFormat) -> list[Path]:
    return sorted((cache_dir / format.digest.hex()).glob("*.pages"))


def snapshots(cache_dir: Path) -> list[Path]:
    return files(cache_dir, SNAPSHOTS)


# ---- what is found again -------------------------------------------------------------------------


def test_a_restart_goes_on_from_the_last_snapshot(cache_dir: Path) -> None:
    assert run(cache_dir, PROMPT) == [0]
    [path] = snapshots(cache_dir)
    assert path.stat().st_size == HEADER_BYTES + 2 * RECORD  # behind 28 tokens, and behind 40
    with recurrent_llm(cache_dir=cache_dir) as llm:
        assert check(llm, PROMPT) == [28]
        assert isinstance(llm.model, RecurrentModel)
        assert (llm.model.n_read, llm.n_disk_pages) == (2 + 10, 7)
        assert check(llm, PROMPT) == [28]
        assert llm.n_disk_pages == 7  # from memory
        assert check(llm, [*PROMPT, *greedy(PROMPT), 7]) == [40]
    assert snapshots(cache_dir)[0] == path  # which is not written again


def test_a_beginning_that_texts_share_gets_a_snapshot_of_its_own(cache_dir: Path) -> None:
    others = [[*PROMPT[:22], *random.Random(seed).choices(range(250), k=9)] for seed in (3, 4)]
    assert [run(cache_dir, prompt)[0] for prompt in (PROMPT, *others)] == [0, 0, 20]


def test_a_prompt_that_is_shorter_than_every_snapshot_is_computed(cache_dir: Path) -> None:
    run(cache_dir, PROMPT)
    with recurrent_llm(cache_dir=cache_dir) as llm:
        assert check(llm, PROMPT[:27]) == [0]
        assert llm.n_disk_pages == 0  # without a state pages are not even read
    assert run(cache_dir, PROMPT[:27]) == [24]


def test_the_disk_goes_on_where_memory_ends(cache_dir: Path) -> None:
    run(cache_dir, PROMPT[:14], PROMPT)
    with recurrent_llm(cache_dir=cache_dir) as llm:
        assert check(llm, PROMPT[:14]) == [12]
        assert check(llm, PROMPT) == [28]
        assert llm.n_disk_pages == 3 + 4


def test_a_preempted_request_comes_back_from_disk(cache_dir: Path) -> None:
    """Two that do not fit together, and so few slots that memory keeps no states for long."""
    others = [random.Random(seed).choices(range(250), k=18) for seed in (7, 8)]
    run(cache_dir, *others)
    for n_slots in (5, 20):
        with recurrent_llm(cache_dir=cache_dir, n_blocks=12, n_slots=n_slots) as llm:
            assert check(llm, *others)[0] == 16
            assert llm._loop.stepper.scheduler.n_preemptions > 0
            assert llm.n_disk_pages >= 8


def test_two_writers_and_a_reader_at_once(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyroclast.engine.pages.tier._SCAN_EVERY_S", 0)
    with recurrent_llm(cache_dir=cache_dir) as reader:
        with recurrent_llm(cache_dir=cache_dir) as one, recurrent_llm(cache_dir=cache_dir) as two:
            check(one, PROMPT)
            check(two, PROMPT[::-1])
        assert len(snapshots(cache_dir)) == 2
        assert check(reader, PROMPT, PROMPT[::-1]) == [28, 28]


def test_salts_stay_apart(cache_dir: Path) -> None:
    for salt, n_cached in (("a", 0), ("b", 0), ("a", 28)):
        with recurrent_llm(cache_dir=cache_dir) as llm:
            [found] = llm.generate([PROMPT], GREEDY.replace(cache_salt=salt))
        assert found.timings.n_cached_tokens == n_cached
        assert list(found.token_ids) == greedy(PROMPT)


def test_saved_states_and_the_folder_work_side_by_side(cache_dir: Path, tmp_path: Path) -> None:
    """Whichever has more of the text."""
    with recurrent_llm() as llm:
        assert llm.save_state(tmp_path / "state", PROMPT) == 28
    run(cache_dir, PROMPT[:14])
    with recurrent_llm(cache_dir=cache_dir) as llm:
        assert llm.load_state(tmp_path / "state") == 28
        assert check(llm, PROMPT) == [28]
        assert llm.n_disk_pages == 0
        assert check(llm, PROMPT[:14]) == [12]


def test_equal_hashes_do_not_answer_with_another_text(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks at one depth have one key.  The folder has the pages of one text and, behind the
    same ids of their last page, the state of another one."""

    def weak(data: bytes, *, digest_size: int, key: bytes = b"") -> Any:
        class Digest:
            def digest(self) -> bytes:
                return bytes([len(key) and key[0] + 1]) * digest_size

        return Digest()

    monkeypatch.setattr("pyroclast.engine.prefix_cache.blake2b", weak)
    other = [*range(50, 62), *PROMPT[12:]]
    run(cache_dir, PROMPT)
    run(cache_dir.with_name("other"), other)
    [own], [foreign] = snapshots(cache_dir), snapshots(cache_dir.with_name("other"))
    own.write_bytes(foreign.read_bytes())
    assert run(cache_dir, PROMPT) == [0]


# ---- bounds --------------------------------------------------------------------------------------


def test_pages_and_snapshots_share_one_bound(cache_dir: Path) -> None:
    limit = 8 * (HEADER_BYTES + 3 * RECORD)
    prompts = [list(range(i, i + 30)) for i in range(1, 200, 12)]
    for i, prompt in enumerate(prompts):
        run(cache_dir, prompt, cache_dir_bytes=limit)
        for path in cache_dir.glob("*/*.pages"):  # a clock that ticks between two runs
            status = path.stat()
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))
        assert sum(path.stat().st_size for path in cache_dir.glob("*/*.pages")) <= limit, i
    assert len(snapshots(cache_dir)) < len(prompts)
    assert run(cache_dir, prompts[0], prompts[-1], cache_dir_bytes=limit) == [0, 28]


def test_a_bound_that_holds_no_snapshot_is_refused(cache_dir: Path) -> None:
    least = 8 * (HEADER_BYTES + RECORD)
    with pytest.raises(CacheFileError, match=rf"at least {least} .* 8 segments of one snapshot"):
        recurrent_llm(cache_dir=cache_dir, cache_dir_bytes=least - 1)
    assert run(cache_dir, PROMPT, cache_dir_bytes=least) == [0]
    assert run(cache_dir, PROMPT, cache_dir_bytes=least) == [28]


def test_random_requests_answer_as_without_a_cache(cache_dir: Path) -> None:
    """Few blocks and slots in memory, and few segments on disk: all come and go everywhere."""
    choose, n_disk_pages = random.Random(5), 0
    limit = 8 * (HEADER_BYTES + 3 * RECORD)
    for _ in range(8):
        with recurrent_llm(
            cache_dir=cache_dir,
            cache_dir_bytes=limit,
            n_blocks=choose.choice([16, 40]),
            n_slots=choose.choice([3, 6, 20]),
            max_batch_tokens=choose.choice([5, 16]),
        ) as llm:
            for _ in range(6):
                first, n = choose.randrange(2), choose.randint(1, 3)
                check(llm, *[
                    [*range(first, first + choose.randrange(1, 40)), choose.randrange(9)]
                    for _ in range(n)
                ])  # fmt: skip
            n_disk_pages += llm.n_disk_pages
    assert n_disk_pages > 30


# ---- what is lost or damaged ---------------------------------------------------------------------


def test_pages_whose_snapshots_are_gone_cost_nothing(cache_dir: Path) -> None:
    """They are not read, and the states are written again."""
    run(cache_dir, PROMPT)
    shutil.rmtree(snapshots(cache_dir)[0].parent)
    with recurrent_llm(cache_dir=cache_dir) as llm:
        assert check(llm, PROMPT) == [0]
        assert llm.n_disk_pages == 0
    assert len(files(cache_dir, PAGES)) == 1
    assert run(cache_dir, PROMPT) == [28]


def test_a_snapshot_that_goes_while_it_is_known_is_a_miss(
    cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(cache_dir, PROMPT)
    with recurrent_llm(cache_dir=cache_dir) as llm:
        snapshots(cache_dir)[0].unlink()
        assert check(llm, PROMPT) == [0]
        assert (llm.n_disk_pages, caplog.messages) == (0, [])
    assert run(cache_dir, PROMPT) == [28]


@pytest.mark.parametrize("is_early", [True, False], ids=["before the start", "after the scan"])
def test_no_flipped_bit_gives_a_wrong_token(
    cache_dir: Path, caplog: pytest.LogCaptureFixture, *, is_early: bool
) -> None:
    """In the snapshot of 28 tokens, behind which another one of 12 is left."""
    run(cache_dir, PROMPT[:14])
    run(cache_dir, PROMPT)
    path = next(each for each in snapshots(cache_dir) if holds(each, 28))
    whole = path.read_bytes()
    start = next(at for at, n_tokens in tokens_in(path) if n_tokens == 28)
    sums = SNAPSHOTS.record_sum_at
    for at in (
        0,
        4,
        9,
        30,
        70,
        sums - 1,
        sums + 3,
        *range(SNAPSHOTS.record_header_bytes, RECORD, 97),
    ):
        restore(cache_dir, path, whole)
        caplog.clear()
        changed = bytearray(whole)
        changed[start + at] ^= 1 << at % 8
        if is_early:
            path.write_bytes(changed)
        with recurrent_llm(cache_dir=cache_dir) as llm:
            path.write_bytes(changed)
            assert check(llm, PROMPT) == [12], at
        [line] = caplog.messages
        assert "snapshot" in line and "ignored" in line


def tokens_in(path: Path) -> list[tuple[int, int]]:
    """Where each snapshot of a segment begins, and of how many tokens it is."""
    raw, found = path.read_bytes(), []
    for at in range(HEADER_BYTES, len(raw), RECORD):
        content = at + SNAPSHOTS.record_header_bytes
        found.append((at, int.from_bytes(raw[content : content + 8], "little")))
    return found


def holds(path: Path, n_tokens: int) -> bool:
    return n_tokens in [n for _, n in tokens_in(path)]


def restore(cache_dir: Path, path: Path, whole: bytes) -> None:
    """The segments of the first two runs, as they were: snapshots that others wrote go."""
    for each in snapshots(cache_dir):
        if each != path and not holds(each, 12):
            each.unlink()
    path.write_bytes(whole)


def test_every_cut_leaves_what_is_whole(cache_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(cache_dir, PROMPT[:14])
    [path] = snapshots(cache_dir)
    whole = path.read_bytes()
    for n_bytes in (
        0,
        1,
        HEADER_BYTES - 1,
        HEADER_BYTES,
        HEADER_BYTES + 1,
        HEADER_BYTES + RECORD - 1,
    ):
        for each in snapshots(cache_dir):
            each.unlink()
        path.write_bytes(whole[:n_bytes])
        path.chmod(0o600)
        caplog.clear()
        assert run(cache_dir, PROMPT[:14]) == [0]
        assert len(caplog.messages) == (n_bytes not in (0, HEADER_BYTES)), n_bytes


def test_a_damaged_page_leaves_the_snapshots_before_it(cache_dir: Path) -> None:
    run(cache_dir, PROMPT[:14])
    run(cache_dir, PROMPT)
    path = files(cache_dir, PAGES)[-1]  # with the pages from the fourth on
    raw = bytearray(path.read_bytes())
    with recurrent_llm(cache_dir=cache_dir) as llm:
        raw[HEADER_BYTES + 3 * PAGES.record_bytes - 1] ^= 1
        path.write_bytes(raw)
        assert check(llm, PROMPT) == [12]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (PageFormat(replace(IDENTITY, model=b"x" * 16), STATE_BYTES), "another model made it"),
        (PageFormat(replace(IDENTITY, kernels=b"x" * 16), STATE_BYTES), "kernels made it"),
        (PageFormat(replace(IDENTITY, block_size=8), STATE_BYTES), "snapshots have 8 positions in"),
        (PageFormat(IDENTITY, STATE_BYTES + 8), f"have 4 positions in {STATE_BYTES + 8} bytes"),
    ],
    ids=["model", "kernels", "block_size", "a size that lies"],
)
def test_foreign_files_are_passed_over(
    cache_dir: Path, caplog: pytest.LogCaptureFixture, other: PageFormat, why: str
) -> None:
    """A whole file of another identity, and one of pages, where snapshots are looked for."""
    run(cache_dir, PROMPT)
    [path] = snapshots(cache_dir)
    whole = path.read_bytes()
    foreign = other.snapshots
    assert foreign is not None
    path.write_bytes(foreign.file_header(foreign.magic) + whole[HEADER_BYTES:])
    shutil.copy(files(cache_dir, PAGES)[0], path.with_name("1.pages"))
    assert run(cache_dir, PROMPT) == [0]
    assert len(caplog.messages) == 2
    assert why in caplog.text
    assert "it is not a file of snapshots: it begins with b'PYROPAGE'" in caplog.text


def test_a_state_of_another_size_is_of_another_model(cache_dir: Path) -> None:
    """Both sizes are in the identity: such files are not found, and a copy of one is refused."""
    run(cache_dir, PROMPT)
    with recurrent_llm(cache_dir=cache_dir, max_seq_len=64) as llm:
        assert check(llm, PROMPT) == [0]


def test_a_state_whose_slot_got_another_while_it_was_copied_is_not_written(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread copies slots for as long as texts come and go in them: also the same one again."""
    begin, end, copy = threading.Event(), threading.Event(), writers.Kept.copy_to

    def slow(self: writers.Kept, buffer: bytearray, arrays: Any) -> bool:
        if len(buffer) == STATE_BYTES and not end.is_set():
            start = b"".join(array.tobytes() for array in arrays(self.block))
            begin.set()
            assert end.wait(60)
            buffer[:] = start[:100] + bytes(len(buffer) - 100)  # it was changed meanwhile
            return self.is_there()
        return copy(self, buffer, arrays)

    monkeypatch.setattr(writers.Kept, "copy_to", slow)
    with recurrent_llm(cache_dir=cache_dir, n_slots=3) as llm:
        check(llm, PROMPT)
        assert begin.wait(60)
        check(llm, PROMPT[::-1])  # takes all slots
        check(llm, PROMPT)
        end.set()
    monkeypatch.setattr(writers.Kept, "copy_to", copy)
    run(cache_dir, PROMPT)


def test_a_spoiled_text_is_not_read_again(cache_dir: Path) -> None:
    run(cache_dir, PROMPT)
    with recurrent_llm(cache_dir=cache_dir) as llm:
        assert isinstance(llm.model, FakeModel)
        llm.model.logits_of = lambda _: np.full(260, np.nan, np.float32)
        with pytest.raises(Exception, match="NaN"):
            llm.generate([PROMPT], GREEDY)
        llm.model.logits_of = hashed
        assert check(llm, PROMPT) == [0]


def test_where_one_kind_cannot_be_written_the_other_ends_as_well(
    cache_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Segment.append

    def full(self: Segment, buffers: list[bytes | bytearray]) -> int:
        if len(buffers[-1]) == STATE_BYTES:
            raise OSError(28, "No space left on device")
        return append(self, buffers)

    monkeypatch.setattr(Segment, "append", full)
    run(cache_dir, PROMPT, PROMPT[::-1])
    assert caplog.messages == ["cached pages: no more are written: No space left on device"]
    assert files(cache_dir, PAGES) == []
