"""Cached pages on disk that are cut, damaged or foreign: what is refused, and why."""

import shutil

import numpy as np
import pytest

from page_folders import GREEDY, PROMPT, RECORD, answer, fake, fill, first_lines, segments
from pyroclast.engine.pages.record import HEADER_BYTES
from pyroclast.model.cache_identity import CacheIdentity

pytestmark = pytest.mark.usefixtures("child_paths", "warnings_are_seen")


def test_every_cut_of_the_last_page_leaves_the_others(cache_dir, expected, caplog):
    fill(cache_dir)
    [path] = segments(cache_dir)
    whole = path.read_bytes()
    for n_bytes in range(len(whole) - 2 * RECORD, len(whole) - RECORD):
        path.write_bytes(whole[:n_bytes])
        caplog.clear()
        with fake(cache_dir) as llm:
            assert answer(llm) == (expected, 24)
        lines = first_lines(caplog)
        is_cut = n_bytes > len(whole) - 2 * RECORD
        assert len(lines) == is_cut and all("its last page is incomplete" in x for x in lines)
        for other in segments(cache_dir):
            if other != path:
                other.unlink()


@pytest.mark.parametrize("n_bytes", [0, 1, HEADER_BYTES - 1])
def test_a_file_without_a_header(cache_dir, expected, caplog, n_bytes):
    fill(cache_dir)
    [path] = segments(cache_dir)
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert fill(cache_dir) == [(expected, 0)]
    assert len(first_lines(caplog)) == (n_bytes > 0)
    assert n_bytes == 0 or f"ends within its header, after {n_bytes} bytes" in caplog.text


def test_no_flipped_bit_gives_a_wrong_token(cache_dir, expected, caplog):
    fill(cache_dir)
    [path] = segments(cache_dir)
    whole = path.read_bytes()
    for at in range(HEADER_BYTES + 3 * RECORD, HEADER_BYTES + 4 * RECORD):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        caplog.clear()
        with fake(cache_dir) as llm:
            assert answer(llm) == (expected, 12)
        assert len(first_lines(caplog)) == 1 and "ignored" in caplog.text
        for other in segments(cache_dir):
            if other != path:
                other.unlink()
    for at in range(HEADER_BYTES):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert fill(cache_dir)[0][0] == expected
        for other in segments(cache_dir):
            if other != path:
                other.unlink()


def test_a_page_that_changes_after_the_scan_is_zeroed(cache_dir, expected, caplog):
    fill(cache_dir)
    [path] = segments(cache_dir)
    with fake(cache_dir) as llm:
        whole = bytearray(path.read_bytes())
        whole[-RECORD * 6 - 1] ^= 1  # the last byte of page 1
        path.write_bytes(whole)
        loaded = []
        scan = llm._prefixes.tiers[0].index

        def load(*args, load=scan.load):
            n = load(*args)
            loaded.append((n, llm.model.cache[args[3][:7]].copy()))
            return n

        scan.load = load
        assert answer(llm) == (expected, 4)
        [(n, blocks)] = loaded
        assert n == 1
        np.testing.assert_array_equal(blocks[0], PROMPT[:4])
        assert not blocks[1:].any()
    assert "is damaged, and ignored" in caplog.text


def test_a_segment_that_was_dropped_is_a_miss(cache_dir, expected, caplog):
    fill(cache_dir)
    with fake(cache_dir) as llm:
        for path in segments(cache_dir):
            path.unlink()
        assert answer(llm) == (expected, 0)
    assert first_lines(caplog) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": b"x" * 16}, "another model made it"),
        ({"kernels": b"x" * 16}, "kernels made it whose bits may differ"),
        ({"kv_dtype": "q8_0"}, "it has kv_dtype 'q8_0', this model 'f32'"),
    ],
)
def test_foreign_files_are_passed_over(cache_dir, expected, caplog, monkeypatch, change, why):
    """In the folder of this model, where a copy put them."""
    parts = {
        "model": b"m" * 16, "kernels": b"k" * 16, "kv_dtype": "f32", "block_size": 4,
        "page_bytes": 32,
    } | change  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("fake_model.FakeModel.cache_identity", CacheIdentity(**parts))
        fill(cache_dir)
    [foreign] = segments(cache_dir)
    assert fill(cache_dir) == [(expected, 0)]  # of another folder, which is nothing to tell
    assert first_lines(caplog) == []
    [own] = [path for path in segments(cache_dir) if path != foreign]
    shutil.copy(foreign, own)
    assert fill(cache_dir) == [(expected, 0)]
    assert len(first_lines(caplog)) == 1 and why in caplog.text


def test_another_version_is_passed_over(cache_dir, expected, caplog, monkeypatch):
    fill(cache_dir)
    [path] = segments(cache_dir)
    monkeypatch.setattr("pyroclast.engine.pages.record.VERSION", 2)
    fill(cache_dir)
    [new] = [each for each in segments(cache_dir) if each != path]
    shutil.copy(path, new)
    assert fill(cache_dir) == [(expected, 0)]
    assert "it has version 1 of the format, this is version 2" in caplog.text


def test_a_spoiled_text_is_not_read_again(cache_dir):
    fill(cache_dir)
    with fake(cache_dir) as llm:
        llm.model.logits_of = lambda history: np.full(260, np.nan, np.float32)
        with pytest.raises(Exception, match="NaN"):
            answer(llm)
        assert len(llm._prefixes.tiers[0].index) == 1  # the page of the answer


def test_a_page_that_a_spoiled_text_copied_a_part_of_is_not_read_again(cache_dir, expected):
    fill(cache_dir)
    with fake(cache_dir) as llm:
        assert answer(llm) == (expected, 28)
        sound = llm.model.logits_of
        llm.model.logits_of = lambda history: np.full(260, np.nan, np.float32)
        with pytest.raises(Exception, match="NaN"):
            answer(llm, [*PROMPT[:2], 98, 99])
        llm.model.logits_of = sound
        assert len(llm._prefixes.tiers[0].index) == 0  # nor what follows that page
        assert answer(llm) == (expected, 0)


def test_nor_is_one_that_memory_has_evicted_meanwhile(cache_dir, expected):
    fill(cache_dir)
    with fake(cache_dir) as llm:
        assert answer(llm) == (expected, 28)
        stream = llm.stream([*PROMPT[:2], 98, 99], GREEDY.replace(max_tokens=9))
        assert next(stream).n_cached_tokens == 2
        llm._prefixes.evict(99)
        sound = llm.model.logits_of
        llm.model.logits_of = lambda history: np.full(260, np.nan, np.float32)
        with pytest.raises(Exception, match="NaN"):
            list(stream)
        llm.model.logits_of = sound
        assert answer(llm) == (expected, 0)
