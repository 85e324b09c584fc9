"""Cached pages on disk, on the fake model: what is found again."""

import random
import time

import pytest

from fake_model import fake_llm
from page_folders import GREEDY, N_PAGES, PROMPT, RECORD, answer, fake, fill, segments
from pyroclast import CacheFileError, RequestError
from pyroclast.engine.pages.record import HEADER_BYTES

pytestmark = pytest.mark.usefixtures("child_paths")


# ---- what is found again -------------------------------------------------------------------------


def test_a_restart_takes_the_prompt_from_disk(cache_dir, expected):
    assert fill(cache_dir) == [(expected, 0)]
    [path] = segments(cache_dir)
    assert path.stat().st_size == HEADER_BYTES + N_PAGES * RECORD
    with fake(cache_dir) as llm:
        assert answer(llm) == (expected, 28)
        assert llm.model.steps[0] == (2, 1, 1)  # the rest of the prompt is all that is computed
        assert llm.n_disk_pages == 7
        assert answer(llm) == (expected, 29)
        assert llm.n_disk_pages == 7  # from memory
    assert segments(cache_dir) == [path]  # nothing is written twice


def test_what_was_generated_is_found_as_well(cache_dir, expected):
    fill(cache_dir)
    [(_, n_cached)] = fill(cache_dir, [*PROMPT, *expected, 1])
    assert n_cached == 32


def test_the_disk_goes_on_where_memory_ends(cache_dir, expected):
    fill(cache_dir)
    with fake(cache_dir) as llm:
        answer(llm, PROMPT[:12])
        assert llm.n_disk_pages == 2  # the last token of a prompt is computed
        assert answer(llm) == (expected, 28)
        assert llm.n_disk_pages == 2 + 4  # it computed the third, which is in memory


def test_a_prompt_of_whole_blocks_computes_its_last_one(cache_dir):
    fill(cache_dir, PROMPT[:28])
    [(_, n_cached)] = fill(cache_dir, PROMPT[:28])
    assert n_cached == 24


def test_completions_of_one_prompt_read_it_once(cache_dir):
    fill(cache_dir)
    with fake(cache_dir) as llm:
        found = llm.generate([PROMPT], GREEDY.replace(n=3, temperature=1, seed=5))
        assert [each.timings.n_cached_tokens for each in found] == [28] * 3
        assert llm.n_disk_pages == 7
    with fake_llm() as llm:
        plain = llm.generate([PROMPT], GREEDY.replace(n=3, temperature=1, seed=5))
    assert [each.token_ids for each in found] == [each.token_ids for each in plain]


def test_salts_stay_apart(cache_dir, expected):
    with fake(cache_dir) as llm:
        answer(llm, cache_salt="a")
    with fake(cache_dir) as llm:
        assert answer(llm) == (expected, 0)
        assert answer(llm, cache_salt="b") == (expected, 0)
        assert answer(llm, cache_salt="a") == (expected, 28)


def test_a_scored_prompt_is_not_skipped(cache_dir):
    fill(cache_dir)
    with fake(cache_dir) as llm, fake_llm() as plain:
        [found], [wanted] = llm.score([PROMPT]), plain.score([PROMPT])
        assert found.logprobs == wanted.logprobs
        assert llm.n_disk_pages == 0


def test_evicted_blocks_come_back_from_disk(cache_dir, expected):
    with fake(cache_dir, n_blocks=12) as llm:
        answer(llm)
        deadline = time.monotonic() + 60
        while (
            not all(path.stat().st_size for path in segments(cache_dir))
            or len(llm._prefixes.tiers[0].index) < N_PAGES
        ):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        answer(llm, list(range(100, 140)))
        assert llm._loop.stepper.scheduler.pool.n_blocks == 12
        assert answer(llm) == (expected, 28)
        assert llm.n_disk_pages > 0


def test_equal_hashes_do_not_answer_with_another_text(cache_dir, monkeypatch):
    """All blocks at one depth have one key."""

    def weak(data, *, digest_size, key=b""):
        class Digest:
            def digest(self):
                return bytes([len(key) and key[0] + 1]) * digest_size

        return Digest()

    monkeypatch.setattr("pyroclast.engine.prefix_cache.blake2b", weak)
    other = [*range(50, 62), *PROMPT[12:]]  # the same text behind another beginning
    [(wanted, _)] = fill(cache_dir.with_name("other"), other)
    fill(cache_dir)
    assert fill(cache_dir, other) == [(wanted, 0)]
    [(_, n_cached)] = fill(cache_dir)
    assert n_cached == 28
    with fake_llm() as llm:
        answer(llm)
        with pytest.raises(CacheFileError, match="cannot hold 7 pages"):
            llm.save_state(cache_dir / "state", other)


def test_another_process_finds_what_this_one_writes_meanwhile(cache_dir, expected, monkeypatch):
    monkeypatch.setattr("pyroclast.engine.pages.tier._SCAN_EVERY_S", 0)
    with fake(cache_dir) as reader:
        fill(cache_dir)
        assert answer(reader) == (expected, 28)


def test_two_writers_have_segments_of_their_own(cache_dir):
    with fake(cache_dir) as one, fake(cache_dir) as two:
        answer(one)
        answer(two, list(range(60, 90)))
    assert len(segments(cache_dir)) == 2
    assert [n for _, n in fill(cache_dir, PROMPT, list(range(60, 90)))] == [28, 28]


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_dir_bytes": 10**6}, "bounds cache_dir, which was not given"),
        ({"cache_dir_bytes": 0, "cache_dir": "x"}, "at least 1, got 0"),
        ({"prefix_cache_bytes": True}, "at least 1, got True"),
        ({"prefix_cache": False, "cache_dir": "x"}, "cache_dir needs prefix_cache=True"),
        ({"prefix_cache": False, "prefix_cache_bytes": 9}, "prefix_cache_bytes needs prefix"),
        ({"cache_dir": ""}, "must be the path of a folder, got ''"),
        ({"cache_dir": b"x"}, "must be the path of a folder, got b'x'"),
        ({"cache_dir": 3}, "must be the path of a folder, got 3"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(RequestError, match=message):
        fake_llm(**options)


def test_a_byte_budget_in_memory(expected):
    with fake_llm(prefix_cache_bytes=3 * 32 + 31) as llm:
        answer(llm)
        assert answer(llm) == (expected, 12)
    with fake_llm(prefix_cache_bytes=31) as llm:
        answer(llm)
        assert answer(llm) == (expected, 0)


# ---- beside others -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, 3, "", b"state"])
def test_the_path_of_a_state_is_text_or_a_path(path):
    with fake_llm() as llm:
        for call in (lambda: llm.save_state(path, PROMPT), lambda: llm.load_state(path)):
            with pytest.raises(RequestError, match="path must be the path of a file, got"):
                call()


def test_states_and_the_folder_work_side_by_side(cache_dir, tmp_path, expected):
    with fake_llm() as llm:
        llm.save_state(tmp_path / "state", PROMPT)
    with fake(cache_dir) as llm:
        assert llm.load_state(tmp_path / "state") == 28
        assert answer(llm) == (expected, 28)
        assert llm.n_disk_pages == 0
    assert fill(cache_dir) == [(expected, 28)]


def test_a_gpu_has_no_disk(cache_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("fake_model.FakeModel.device", "cuda")
    for use in (
        lambda: fake_llm().save_state(tmp_path / "state", PROMPT),
        lambda: fake_llm().load_state(tmp_path / "state"),
        lambda: fake(cache_dir),
    ):
        with pytest.raises(CacheFileError, match="need the CPU, this model runs on 'cuda'"):
            use()


def test_random_requests_answer_as_without_a_cache(cache_dir):
    """Few blocks in memory and few segments on disk: pages come and go everywhere."""
    choose, n_disk_pages = random.Random(5), 0
    limit = 8 * (HEADER_BYTES + 6 * RECORD)
    with fake_llm(prefix_cache=False) as plain:
        for _ in range(12):
            with fake(cache_dir, n_blocks=choose.choice([16, 40]), cache_dir_bytes=limit) as llm:
                for _ in range(10):
                    first = choose.randrange(3)
                    prompts = [
                        [*range(first, first + choose.randrange(1, 45)), choose.randrange(9)]
                        for _ in range(choose.randint(1, 4))
                    ]
                    params = GREEDY.replace(
                        n=choose.randint(1, 2),
                        seed=choose.randrange(9),
                        temperature=choose.choice([0, 1]),
                        cache_salt=choose.choice([None, "a"]),
                    )
                    found, wanted = (each.generate(prompts, params) for each in (llm, plain))
                    assert [c.token_ids for c in found] == [c.token_ids for c in wanted]
                n_disk_pages += llm.n_disk_pages
    assert n_disk_pages > 100
