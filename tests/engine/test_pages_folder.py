"""Cached pages on disk: the bound of their folder, whose it is, and who else writes there."""

import fcntl
import os
import signal
import stat
import time

import pytest

from page_folders import N_PAGES, RECORD, answer, fake, fill, segments
from pyroclast import CacheFileError
from pyroclast.engine.pages import folder as folders
from pyroclast.engine.pages.record import HEADER_BYTES

pytestmark = pytest.mark.usefixtures("child_paths", "warnings_are_seen")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


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
