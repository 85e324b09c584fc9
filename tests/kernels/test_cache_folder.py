"""Caches: where they are, whom they trust, and that damage costs a compilation and nothing else."""

from __future__ import annotations

import os
import pwd
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from fresh import BIND, python
from pyroclast_kernels import cache_folder, tables
from pyroclast_kernels.cache_folder import CacheError
from pyroclast_kernels.native import compile as native_compile

STRANGER = 54321  # a number that no user has
SOURCE = 'extern "C" void f(const void *, int, int) {}\n'
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    return tmp_path / "cache"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- where -----------------------------------------------------------------------------------


def test_the_users_cache_directory(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder.path_of("tune", "gpu") == top / "pyroclast" / "tune" / "gpu"
    monkeypatch.setenv("HOME", "/users/somebody")
    for useless in ("", "relative/cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", useless)
        assert cache_folder.home() == Path("/users/somebody/.cache")
    monkeypatch.delenv("HOME")
    assert cache_folder.home() == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache"


def test_without_a_home_and_a_user_it_is_a_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for useless in (None, "", "relative"):
        monkeypatch.delenv("HOME", raising=False)
        if useless is not None:
            monkeypatch.setenv("HOME", useless)
        assert cache_folder.home() == tmp_path / f"pyroclast-{os.getuid()}"
    made = cache_folder.make(cache_folder.path_of("tune"))
    assert mode(tmp_path / f"pyroclast-{os.getuid()}") == mode(made) == 0o700


@needs_root
def test_a_process_of_a_stranger_without_a_home_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as an arbitrary number."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    told = python(f"""
import os
from pyroclast_kernels import cache_folder, tables
os.setgid({STRANGER}); os.setuid({STRANGER})
print(json.dumps([cache_folder.home().name, *tables.current()]))
""")
    assert told[:2] == [f"pyroclast-{STRANGER}", None] and "not been tuned" in told[2]


# ---- whom it trusts --------------------------------------------------------------------------


def test_new_folders_are_closed_to_others_whatever_the_umask(top: Path) -> None:
    before = os.umask(0)
    try:
        folder = cache_folder.make(cache_folder.path_of("numba", "abc"))
    finally:
        os.umask(before)
    assert [mode(each) for each in (folder, *folder.parents[:3])] == [0o700] * 4
    assert folder.parents[2] == top


@pytest.mark.parametrize("bits", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_refused(top: Path, bits: int) -> None:
    folder = cache_folder.make(cache_folder.path_of("tune", "gpu"))
    for changed in (folder, folder.parent, folder.parents[1]):
        changed.chmod(bits)
        with pytest.raises(CacheError, match=f"{changed} can be written .*chmod go-w {changed}"):
            cache_folder.make(folder)
        changed.chmod(0o755)  # reading is no danger
        assert cache_folder.make(folder) == folder


def test_the_cache_directory_itself_may_be_open_only_if_sticky(top: Path) -> None:
    folder = cache_folder.make(cache_folder.path_of("tune"))
    top.chmod(0o777)
    assert "can be written by everybody" in cache_folder.why_folder_refused(folder)
    top.chmod(0o1777)  # as /tmp is
    assert cache_folder.why_folder_refused(folder) == ""
    top.chmod(0o770)  # a group of the user's own
    assert cache_folder.why_folder_refused(folder) == ""


@needs_root
def test_a_strangers_folder_file_or_link_is_refused(top: Path) -> None:
    folder = cache_folder.make(cache_folder.path_of("tune"))
    for changed in (folder, folder.parent, top):
        os.chown(changed, STRANGER, STRANGER)
        with pytest.raises(CacheError, match=f"{changed} belongs to user {STRANGER}"):
            cache_folder.make(folder)
        os.chown(changed, 0, 0)
    link = folder / "link"
    link.symlink_to(top)
    assert cache_folder.why_refused(link) == ""
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    assert str(STRANGER) in cache_folder.why_refused(link)


def test_what_is_no_folder_is_refused(top: Path) -> None:
    top.write_text("a file")
    with pytest.raises(CacheError, match="cannot be made"):
        cache_folder.make(cache_folder.path_of("tune"))


# ---- litter ----------------------------------------------------------------------------------


def test_only_old_temporary_files_of_killed_writers_are_swept(tmp_path: Path) -> None:
    now = time.time()
    for name, age_s in (("old.tmp", 3700), ("new.tmp", 3500), ("old.json", 9000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now - age_s, now - age_s))
    (tmp_path / "folder.tmp").mkdir()
    (tmp_path / "folder.tmp" / "part").touch()
    os.utime(tmp_path / "folder.tmp", (now - 3700, now - 3700))
    cache_folder.sweep(tmp_path, "*.tmp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.tmp", "old.json"]


# ---- tuned tables ----------------------------------------------------------------------------


def test_a_tuned_table_that_others_can_write_is_left_out(top: Path) -> None:
    made = tables.TunedTable(tables.fingerprint(), tables.build_id(), ())
    path = tables.save(made)
    assert tables.current() == (made, "") and mode(path) == 0o600
    path.chmod(0o666)
    found, why = tables.current()
    assert found is None and "can be written by others" in why
    path.chmod(0o600)
    path.parent.chmod(0o777)
    found, why = tables.current()
    assert found is None and f"chmod go-w {path.parent}" in why


# ---- compiled kernels ------------------------------------------------------------------------


@pytest.fixture
def source(top: Path, tmp_path: Path) -> Path:
    if native_compile.compiler() is None:
        pytest.skip("needs a C++ compiler")
    path = tmp_path / "cpp_own.cc"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "open to others"])
def test_a_damaged_library_is_compiled_again(source: Path, damage: str) -> None:
    library = native_compile.shared_object(source)
    whole = library.read_bytes()
    node = library.stat().st_ino
    assert native_compile.shared_object(source).stat().st_ino == node, "taken from the cache"
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    library.write_bytes(
        {"cut": whole[:middle], "empty": b"", "flipped": flipped}.get(damage, whole)
    )
    if damage == "open to others":
        library.chmod(0o666)
    assert native_compile.shared_object(source) == library
    assert library.read_bytes() == whole and mode(library) & 0o022 == 0


def test_without_a_trusted_cache_a_kernel_is_compiled_beside_it(top: Path, source: Path) -> None:
    folder = cache_folder.make(cache_folder.path_of("compiled"))
    folder.chmod(0o777)
    library = native_compile.shared_object(source)
    assert library.exists() and not library.is_relative_to(top)
    assert "can be written by others" in native_compile.folder()[1]
    assert list(folder.iterdir()) == []


# ---- Numba's cache ---------------------------------------------------------------------------


# Compiles the same kernel three times, each time with a fresh look at the cache.
THREE_TIMES = """
from pyroclast_kernels.numba import abi
compiled = [abi._compile("quantize", "f32") for _ in range(3)]
print(json.dumps([each.cache_hits for each in compiled if each.address]))
"""


def bound(top: Path) -> Any:
    return python(BIND, XDG_CACHE_HOME=str(top))


def test_numbas_cache_survives_damage_and_open_files(top: Path) -> None:
    pytest.importorskip("numba")
    before = os.umask(0)
    try:
        assert bound(top) == {"bound": True, "hits": 0}
    finally:
        os.umask(before)
    files = [path for path in (top / "pyroclast" / "numba").rglob("*") if path.is_file()]
    assert len(files) == 2 and all(mode(path) & 0o022 == 0 for path in files)
    assert bound(top)["hits"] == 1
    for ending, content in ((".nbi", b""), (".nbi", b"\0" * 64), (".nbc", b"\x80\x04cut")):
        path = next(path for path in files if path.suffix == ending)
        path.write_bytes(content)
        hits = python(THREE_TIMES, XDG_CACHE_HOME=str(top))
        assert hits == [0, 0, 1], "removed, then made again"
    files[0].chmod(0o666)
    assert bound(top) == {"bound": True, "hits": 0}
    assert bound(top)["hits"] == 1


def test_numba_runs_without_a_cache_that_others_can_write(top: Path) -> None:
    pytest.importorskip("numba")
    folder = cache_folder.make(cache_folder.path_of("numba"))
    folder.chmod(0o777)
    told = python(
        "from pyroclast_kernels.numba.abi import cache_directory\n"
        "print(json.dumps([str(each) for each in cache_directory()]))",
        XDG_CACHE_HOME=str(top),
    )
    assert told[0] == "None" and f"chmod go-w {folder}" in told[1]
    assert bound(top) == {"bound": True, "hits": 0}
    assert list(folder.rglob("*.nb*")) == []
