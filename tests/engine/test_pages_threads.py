"""Threads and processes that write and read cached pages: full queues, forks, exits, Ctrl-C."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fake_model import fake_llm
from page_folders import PROMPT, RECORD, answer, fake, fill, first_lines, segments
from pyroclast.engine.pages import folder as folders
from pyroclast.engine.pages import index as indexes
from pyroclast.engine.pages import writer as writers
from pyroclast.engine.pages.record import HEADER_BYTES, Page, PageFormat, checksum_of
from pyroclast.model.cache_identity import CacheIdentity

pytestmark = pytest.mark.usefixtures("child_paths", "warnings_are_seen")


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


def test_a_page_that_is_forgotten_while_it_is_written_is_not_found(cache_dir, monkeypatch):
    """The writer has copied the page and seen that it was there when the text behind it fails."""
    copied, end = threading.Event(), threading.Event()
    append = folders.Segment.append

    def slow(self, buffers):
        if self.n_bytes:  # the header is there: a page follows
            copied.set()
            assert end.wait(60)
        return append(self, buffers)

    monkeypatch.setattr(folders.Segment, "append", slow)
    with fake(cache_dir) as llm:
        answer(llm)
        assert copied.wait(60)
        sound = llm.model.logits_of
        llm.model.logits_of = lambda history: np.full(260, np.nan, np.float32)
        with pytest.raises(Exception, match="NaN"):
            answer(llm)
        llm.model.logits_of = sound
        [tier] = llm._prefixes.tiers
        end.set()
        until_s = time.monotonic() + 60
        while tier._pages.writer.queued and time.monotonic() < until_s:
            time.sleep(0.01)
        assert not tier._pages.writer.queued and len(tier.index) == 0
        assert answer(llm)[1] == 0


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
