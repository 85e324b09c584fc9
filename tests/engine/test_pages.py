"""Cached pages on disk, on the fake model: what is found again, what is refused, and why."""

import fcntl
import gc
import logging
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fake_model import fake_llm
from pyroclast import CacheFileError, RequestError, SamplingParams
from pyroclast.engine.pages import folder as folders
from pyroclast.engine.pages import index as indexes
from pyroclast.engine.pages import writer as writers
from pyroclast.engine.pages.record import HEADER_BYTES, Page, PageFormat, checksum_of
from pyroclast.model.cache_identity import CacheIdentity

pytestmark = pytest.mark.usefixtures("child_paths")

GREEDY = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
PROMPT = list(range(30))  # 7 full blocks of 4, and 2 tokens
N_PAGES = 8  # 30 + 3 tokens, of which the last is not computed
RECORD = 128 + 32  # of the fake model: header and page
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


def fake(cache_dir, *args, **options):
    return fake_llm(*args, cache_dir=cache_dir, **options)


def answer(llm, prompt=PROMPT, **changes):
    [completion] = llm.generate([prompt], GREEDY.replace(**changes))
    return completion.token_ids, completion.timings.n_cached_tokens


def fill(cache_dir, *prompts, **options):
    """The answers of a model that is closed then."""
    with fake(cache_dir, **options) as llm:
        return [answer(llm, prompt) for prompt in prompts or [PROMPT]]


def segments(cache_dir):
    return sorted(Path(cache_dir).glob("*/*.pages"))


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "pages"


@pytest.fixture
def expected():
    with fake_llm() as llm:
        return answer(llm)[0]


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


# ---- bounds --------------------------------------------------------------------------------------


def test_the_oldest_segments_go(cache_dir):
    limit = 8 * (HEADER_BYTES + 4 * RECORD)
    prompts = [list(range(i, i + 30)) for i in range(1, 200, 20)]
    for i, prompt in enumerate(prompts):
        fill(cache_dir, prompt, cache_dir_bytes=limit)
        for path in segments(cache_dir):  # a clock that ticks between two runs
            status = path.stat()
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))
        assert sum(path.stat().st_size for path in segments(cache_dir)) <= limit, i
    found = [n for _, n in fill(cache_dir, prompts[0], prompts[-1], cache_dir_bytes=limit)]
    assert found == [0, 28]


def test_segments_of_another_model_count_and_go(cache_dir):
    limit = 8 * (HEADER_BYTES + 4 * RECORD)
    other = cache_dir / "other"
    other.mkdir(parents=True, mode=0o700)
    (other / "1-1-a.pages").write_bytes(bytes(limit))
    os.utime(other / "1-1-a.pages", (1, 1))
    fill(cache_dir, cache_dir_bytes=limit)
    assert not other.exists()


def test_what_others_write_is_not_dropped(cache_dir, caplog):
    limit = 8 * (HEADER_BYTES + 4 * RECORD)
    other = cache_dir / "other"
    other.mkdir(parents=True, mode=0o700)
    (other / "1-1-a.pages").write_bytes(bytes(limit))
    with (other / "1-1-a.pages").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fill(cache_dir, cache_dir_bytes=limit)
    assert [path.name for path in segments(cache_dir)] == ["1-1-a.pages"]
    assert "other processes write all that cache_dir_bytes allows" in caplog.text


def test_a_page_that_is_finished_between_two_looks_is_whole(cache_dir, expected, monkeypatch):
    """The writer ends while another process scans its segment."""
    fill(cache_dir)
    [path] = segments(cache_dir)
    content = path.read_bytes()
    os.truncate(path, len(content) - 1)

    def finished(descriptor):
        path.write_bytes(content)
        return is_locked(descriptor)

    is_locked = folders.is_locked
    monkeypatch.setattr(folders, "is_locked", finished)
    with fake(cache_dir) as llm:
        assert len(llm._prefixes.tiers[0].index) == N_PAGES


def test_the_child_of_a_fork_keeps_nobody_waiting(cache_dir):
    """It is made while the thread that writes begins a segment."""
    with fake(cache_dir) as llm:
        folder = llm._prefixes.tiers[0]._pages._folder
        with folder._alone():
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
        try:
            with (cache_dir / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_without_locks_a_young_segment_counts_as_locked(cache_dir, monkeypatch):
    fill(cache_dir)
    [path] = segments(cache_dir)

    def no_locks(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with path.open("rb") as file:
        assert folders.is_locked(file.fileno())
        os.utime(path, (1, 1))
        assert not folders.is_locked(file.fileno())


def test_a_bound_that_holds_no_page_is_refused(cache_dir):
    with pytest.raises(CacheFileError, match=r"must be at least 2304 .* got 2303"):
        fake(cache_dir, cache_dir_bytes=2303)
    fake(cache_dir, cache_dir_bytes=2304).close()


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


# ---- damage --------------------------------------------------------------------------------------


def first_lines(caplog):
    return [record.getMessage() for record in caplog.records]


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


# ---- whose folder it is --------------------------------------------------------------------------


def test_all_of_it_is_closed_to_others(cache_dir, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    old = os.umask(0)
    try:
        fill(cache_dir)
    finally:
        os.umask(old)
    for path in (cache_dir, *cache_dir.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_folder_that_others_may_write_to_is_refused(cache_dir):
    cache_dir.mkdir()
    cache_dir.chmod(0o777)
    with pytest.raises(CacheFileError, match=r"can be written by others \(mode 0777\): chmod go-w"):
        fake(cache_dir)
    cache_dir.chmod(0o700)
    fill(cache_dir)
    [folder] = [path for path in cache_dir.iterdir() if path.is_dir()]
    folder.chmod(0o770)
    with pytest.raises(CacheFileError, match="can be written by others"):
        fake(cache_dir)


@needs_root
def test_a_folder_of_another_user_is_refused(cache_dir):
    cache_dir.mkdir()
    os.chown(cache_dir, 12345, -1)
    with pytest.raises(CacheFileError, match="belongs to user 12345, not to this user"):
        fake(cache_dir)


@needs_root
def test_a_file_of_another_user_is_passed_over(cache_dir, expected, caplog):
    fill(cache_dir)
    [path] = segments(cache_dir)
    os.chown(path, 12345, -1)
    assert fill(cache_dir) == [(expected, 0)]
    assert "belongs to user 12345" in caplog.text


def test_links_and_fifos_are_passed_over(cache_dir, expected, caplog):
    fill(cache_dir)
    [path] = segments(cache_dir)
    elsewhere = cache_dir.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    os.mkfifo(path.with_name("fifo.pages"), 0o600)
    assert fill(cache_dir) == [(expected, 0)]
    assert f"{path}: ignored: Too many levels of symbolic links" in caplog.text


def test_a_file_in_place_of_the_folder(cache_dir):
    cache_dir.write_text("")
    with pytest.raises(CacheFileError, match="is not a folder"):
        fake(cache_dir)
    with pytest.raises(CacheFileError, match="null"):
        fake("a\0b")


# ---- the thread ----------------------------------------------------------------------------------


def test_a_write_that_fails_is_told_once_and_leaves_no_half_page(cache_dir, expected, caplog):
    code = (
        "import resource, signal, sys\nfrom fake_model import fake_llm\n"
        "from pyroclast import SamplingParams\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)\n"
        "fake_llm().generate([[1, 2]], params)\n"  # loads what would be kept as bytecode
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({HEADER_BYTES + 3 * RECORD + 70},) * 2)\n"
        "with fake_llm(cache_dir=sys.argv[1]) as llm:\n"
        "    for prompt in (list(range(30)), list(range(60, 90))):\n"
        "        print(llm.generate([prompt], params)[0].token_ids)\n"
    )
    found = subprocess.run(
        [sys.executable, "-B", "-c", code, str(cache_dir)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(str(expected))
    assert found.stderr.count("no more are written") == len(found.stderr.splitlines()) == 1
    [path] = segments(cache_dir)
    assert path.stat().st_size == HEADER_BYTES + 3 * RECORD
    assert fill(cache_dir) == [(expected, 12)]
    assert first_lines(caplog) == []


def test_a_full_queue_leaves_the_rest_out(cache_dir, monkeypatch):
    begin, end = threading.Event(), threading.Event()
    write = writers.PageWriter.write

    def slow(self, kept):
        begin.set()
        end.wait(60)
        write(self, kept)

    monkeypatch.setattr(writers.PageWriter, "write", slow)
    monkeypatch.setattr(writers, "_MAX_QUEUED", 3)
    with fake(cache_dir) as llm:
        answer(llm)
        begin.wait(60)
        end.set()
    [path] = segments(cache_dir)
    n_pages = (path.stat().st_size - HEADER_BYTES) // RECORD
    assert 3 <= n_pages <= 4


def test_pages_evicted_before_they_are_written_are_left_out(cache_dir, expected, monkeypatch):
    begin, end = threading.Event(), threading.Event()
    copy = writers.Kept.copy_to

    def slow(self, *args):
        begin.set()
        end.wait(60)
        return copy(self, *args)

    monkeypatch.setattr(writers.Kept, "copy_to", slow)
    with fake(cache_dir, n_blocks=10) as llm:
        answer(llm)
        assert begin.wait(60)
        answer(llm, list(range(100, 136)))  # takes all blocks
        end.set()
    monkeypatch.setattr(writers.Kept, "copy_to", copy)
    assert fill(cache_dir)[0][0] == expected


def test_a_program_that_forgets_to_close_writes_its_pages(cache_dir, expected):
    code = (
        "import sys\nfrom fake_model import fake_llm\nfrom pyroclast import SamplingParams\n"
        "llm = fake_llm(cache_dir=sys.argv[1])\n"
        "llm.generate([list(range(30))],"
        " SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(cache_dir)], check=True)
    assert fill(cache_dir) == [(expected, 28)]


@pytest.mark.parametrize("is_first", [True, False])
def test_an_exit_handler_may_still_read_pages(is_first, cache_dir, expected):
    """Registered before the writer's own, which then ends before it, or after it."""
    fill(cache_dir)
    register = "atexit.register(last)\n"
    code = (
        "import atexit, sys\nllm = None\n"
        "def last():\n"
        "    [found] = llm.generate([list(range(30))],"
        " SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))\n"
        "    print(found.token_ids, found.timings.n_cached_tokens)\n"
        f"{register * is_first}"
        "from fake_model import fake_llm, FakeModel\nfrom pyroclast import SamplingParams\n"
        f"{register * (not is_first)}"
        "FakeModel.n_threads = 2\nllm = fake_llm(cache_dir=sys.argv[1])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(cache_dir)], capture_output=True, text=True, check=True
    )
    assert (found.stdout, found.stderr) == (f"{expected} 28\n", "")


def test_a_dropped_model_ends_its_thread(cache_dir):
    llm = fake(cache_dir)
    answer(llm)
    del llm
    gc.collect()
    deadline = time.monotonic() + 60
    while any(thread.name == "pyroclast-pages" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_child_of_a_fork_writes_a_segment_of_its_own(cache_dir, expected):
    other = list(range(60, 90))
    with fake(cache_dir) as llm:
        answer(llm)
        pid = os.fork()
        if pid == 0:
            try:
                answer(llm, other)
                llm.close()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        answer(llm, list(range(100, 130)))
    assert len(segments(cache_dir)) == 2
    prompts = PROMPT, other, list(range(100, 130))
    assert [n for _, n in fill(cache_dir, *prompts)] == [28] * 3


def test_a_spoiled_text_is_not_read_again(cache_dir):
    fill(cache_dir)
    with fake(cache_dir) as llm:
        llm.model.logits_of = lambda history: np.full(260, np.nan, np.float32)
        with pytest.raises(Exception, match="NaN"):
            answer(llm)
        assert len(llm._prefixes.tiers[0].index) == 1  # the page of the answer


@pytest.fixture(autouse=True)
def warnings_are_seen(caplog):
    caplog.set_level(logging.WARNING, "pyroclast")


def test_a_folder_that_went_meanwhile_is_made_again(cache_dir, expected):
    with fake(cache_dir) as llm:
        [folder] = [path for path in cache_dir.iterdir() if path.is_dir()]
        folder.rmdir()
        answer(llm)
    assert fill(cache_dir) == [(expected, 28)]


def test_a_folder_that_others_opened_meanwhile_gets_nothing(cache_dir, caplog):
    with fake(cache_dir) as llm:
        cache_dir.chmod(0o777)
        answer(llm)
    assert segments(cache_dir) == []
    assert "no more are written: cache_dir cannot be used" in caplog.text


def test_a_page_that_is_evicted_while_it_is_saved_is_computed_again(tmp_path, monkeypatch):
    copy, lost = writers.Kept.copy_to, []

    def lose(self, *args):
        if len(lost) < 2:
            lost.append(self)
            return False
        return copy(self, *args)

    monkeypatch.setattr(writers.Kept, "copy_to", lose)
    with fake_llm() as llm:
        assert llm.save_state(tmp_path / "state", PROMPT) == 28
        assert len(llm.model.steps) > 2
    with fake_llm() as llm:
        assert llm.load_state(tmp_path / "state") == 28
        assert answer(llm)[1] == 28


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


def test_threads_share_the_arrays_of_a_page(tmp_path, caplog, monkeypatch):
    """More arrays than one read takes, whatever the number of threads; a damaged one counts."""
    monkeypatch.setattr(indexes, "_MAX_BUFFERS", 3)
    format = PageFormat(CacheIdentity(b"m" * 16, b"k" * 16, "f32", 4, 7 * 8))
    written = np.arange(4 * 7, dtype=np.int64).reshape(4, 7, 1)  # pages of 7 arrays
    pages = [Page(b"", bytes([i]) * 16 * (i > 0), bytes([i + 1]) * 16, bytes(16)) for i in range(4)]
    path = tmp_path / "a.pages"
    path.write_bytes(
        b"".join(
            format.record_header(page, checksum_of(arrays)) + arrays.tobytes()
            for page, arrays in zip(pages, written, strict=True)
        )
    )
    keys = [(page.key, page.ids) for page in pages]
    for n_threads in (1, 2, 5, 9):
        read = np.full_like(written, -1)
        index = indexes.PageIndex(format, lambda block, read=read: list(read[block]), n_threads)
        with path.open("rb") as file:
            index.add_records(path, file.fileno(), 0, path.stat().st_size)
        assert index.load(b"", keys, 1, range(4)) == 3
        np.testing.assert_array_equal(read[1:], written[1:])
        assert (read[0] == -1).all()
    content = bytearray(path.read_bytes())
    content[2 * format.record_bytes - 1] ^= 1  # the last array of page 1
    path.write_bytes(content)
    assert index.load(b"", keys, 0, range(4)) == 1
    assert not read[1:].any() and (read[0] == written[0]).all()
    assert index.load(b"", keys, 0, range(4)) == 1
    os.truncate(path, format.record_bytes - 1)
    assert index.load(b"", keys, 0, range(4)) == 0


def test_what_reads_into_blocks_ends_before_ctrl_c_is_told(monkeypatch):
    """The second Ctrl-C comes while the first waits for the threads, and so does a third."""
    n_begun, n_done, n_interrupts, n_waits = [], [], [], []
    main, real = threading.main_thread().ident, indexes.wait
    submitted, told, both = threading.Event(), threading.Event(), threading.Barrier(2)

    def items():
        yield from range(9)
        submitted.set()

    def waited(begun):
        n_waits.append(1)
        return real(begun)

    def until_there_are(found, n, act=lambda: None):
        deadline = time.monotonic() + 60
        while len(found) < n:
            assert time.monotonic() < deadline
            act()
            time.sleep(0.02)

    def read(i):
        n_begun.append(i)
        both.wait(60)
        if i == 0:
            assert submitted.wait(60)
            for n in range(1, 4):
                # Again and again: a thread about to wait for a lock is not woken by a signal.
                until_there_are(n_interrupts, n, lambda: signal.pthread_kill(main, signal.SIGALRM))
                until_there_are(n_waits, n)
            told.set()
        assert told.wait(60)  # no thread is free for the next one before
        time.sleep(0.05)
        n_done.append(i)

    def interrupt(*_):
        n_interrupts.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(indexes, "wait", waited)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            indexes._in_threads(2, read, items())
        assert len(n_interrupts) >= 3
        assert sorted(n_done) == sorted(n_begun) == [0, 1]
    finally:
        signal.signal(signal.SIGALRM, before)
