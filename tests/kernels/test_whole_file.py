"""Files that are written whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
import time

import pytest

from pyroclast_kernels import whole_file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_takes_the_place_of_the_old_at_the_end(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with whole_file.replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["result.json"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "none" / "result.json"
    with pytest.raises(FileNotFoundError) as raised, whole_file.replacing(path):
        pass
    assert raised.value.filename == str(path)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_one_alone(tmp_path, error):
    path = tmp_path / "result.json"
    path.write_text("old")

    def write():
        with whole_file.replacing(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_the_mode_is_the_caller_s_less_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        for mode, wanted in ((0o666, 0o640), (0o600, 0o600)):
            with whole_file.replacing(tmp_path / "file", mode):
                pass
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == wanted
    finally:
        os.umask(before)


def test_a_link_stays_one_and_a_device_is_written_to_itself(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with whole_file.replacing(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    with pytest.raises(OSError, match="No space left"), whole_file.replacing("/dev/full") as file:
        file.write(b"new")
    with whole_file.replacing("/dev/null") as file:
        file.write(b"new")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


_WRITER = """
import sys, time
from pathlib import Path
from pyroclast_kernels import whole_file
with whole_file.replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    print("begun", flush=True)
    time.sleep(60)
"""


def test_only_the_litter_of_dead_writers_is_swept(tmp_path):
    path = tmp_path / "model[1].gguf"
    path.write_text("old")
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout.readline() == b"begun\n"
        assert len(names(tmp_path)) == 3
        writers[0].kill()
        writers[0].wait()
        whole_file.sweep(tmp_path / "model1.gguf")  # another file
        assert len(names(tmp_path)) == 3
        with whole_file.replacing(path) as file:
            file.write(b"new")
        assert len(names(tmp_path)) == 2
        assert writers[1].poll() is None
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()
    whole_file.sweep(path)
    assert names(tmp_path) == ["model[1].gguf"]
    assert path.read_text() == "new"


def test_a_writer_whose_file_was_taken_for_litter_makes_another(tmp_path, monkeypatch):
    real, taken = whole_file.fcntl.flock, []

    def flock(descriptor, how):
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        real(descriptor, how)

    monkeypatch.setattr(whole_file.fcntl, "flock", flock)
    with whole_file.replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert len(taken) == 1
    assert names(tmp_path) == ["file"]
    assert time.time() - (tmp_path / "file").stat().st_mtime < 60


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_takes_files(tmp_path, monkeypatch, number):
    def flock(descriptor, how):
        raise OSError(number, os.strerror(number))

    def write():
        with whole_file.replacing(tmp_path / "file") as file:
            file.write(b"new")

    monkeypatch.setattr(whole_file.fcntl, "flock", flock)
    if number == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(number)):
            write()
    else:
        write()
    assert names(tmp_path) == ([] if number == errno.EIO else ["file"])
