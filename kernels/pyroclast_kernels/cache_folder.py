"""The folders in which results are kept between processes, and which of their files are trusted.

All are below `pyroclast` of the user's cache directory: XDG_CACHE_HOME, else .cache of the home
directory, else a folder named after the user's number among the temporary files.  A loaded file can
do whatever its writer wants, so a folder or file is refused if it belongs to anybody but this user
and root, or if others may write to it.  New folders are closed to others (mode 0700).

A process that is killed while it writes leaves a temporary file; those of this user are removed
after an hour.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pyroclast_kernels.errors import KernelError

_LITTER_S = 3600.0  # no writer needs as long for one file
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class CacheError(KernelError):
    """A folder or file that cannot be a cache; the message says why and what helps."""


def home() -> Path:
    """The user's cache directory.  A relative XDG_CACHE_HOME or HOME names no folder."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given)
    user = os.environ.get("HOME", "")
    if not os.path.isabs(user):
        try:
            user = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # a container may run as a number that no user has
            user = ""
    if os.path.isabs(user):
        return Path(user) / ".cache"
    return Path(tempfile.gettempdir()) / f"pyroclast-{os.getuid()}"


def path_of(*names: str) -> Path:
    """The folder of that name below `pyroclast`; it need not exist."""
    return home().joinpath("pyroclast", *names)


def why_refused(path: Path) -> str:
    """Why a folder or file is not trusted; empty if it is, or is not there."""
    reason = _why_foreign(path)
    if reason or not path.exists():
        return reason
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS_WRITE:
        return f"{path} can be written by others (mode {mode:04o}): chmod go-w {path}"
    return ""


def _why_foreign(path: Path) -> str:
    """Why the owner of a folder or file is not trusted, or that of a link to it; or empty."""
    for follow in (False, True):
        try:
            owner = path.stat(follow_symlinks=follow).st_uid
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        if owner not in (0, os.getuid()):
            return (
                f"{path} belongs to user {owner}, not to this user ({os.getuid()}): "
                "remove it, or set XDG_CACHE_HOME to a folder of your own"
            )
    return ""


def why_folder_refused(path: Path, top: Path | None = None) -> str:
    """Why a folder is not trusted, or one between it and `top` (the user's cache directory unless
    given); empty if all are, or are not there."""
    top = top or home()
    below = [each for each in (path, *path.parents) if each != top and each.is_relative_to(top)]
    return _why_replaceable(top) or next(filter(None, map(why_refused, reversed(below))), "")


def _why_replaceable(folder: Path) -> str:
    """Why others could replace what is in a folder; in a sticky one, as /tmp, they cannot.  Its
    group is tolerated: where every user has a group of their own, home folders are open to it."""
    reason = _why_foreign(folder)
    try:
        mode = folder.stat().st_mode
    except OSError:  # not there, or closed: making a folder in it tells
        return reason
    if not reason and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        reason = f"{folder} can be written by everybody: chmod o-w {folder}"
    return reason


def make(path: Path, top: Path | None = None) -> Path:
    """Makes a folder, closed to others, unless it is there.  CacheError if it cannot be made or is
    not trusted (`top` as for `why_folder_refused`)."""
    try:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
        if not path.is_dir():
            raise CacheError(f"{path} is not a folder")
    except OSError as error:
        raise CacheError(f"{path} cannot be made: {error.strerror}") from error
    reason = why_folder_refused(path, top)
    if reason:
        raise CacheError(reason)
    return path


def usable(path: Path) -> bool:
    """Whether a file is there and trusted; one that is not trusted is removed, so that it is made
    again.  CacheError if it cannot be removed."""
    reason = why_refused(path)
    if reason:
        try:
            path.unlink()
        except OSError:
            raise CacheError(reason) from None
    return path.is_file()


def usable_below(folder: Path) -> None:
    """Removes what is not trusted among the files and folders below a trusted folder.  CacheError
    if something cannot be removed."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            reason = why_refused(path)
            if reason:
                shutil.rmtree(path, ignore_errors=True)
                if path.exists():
                    raise CacheError(reason)
        elif path.is_symlink() or path.exists():
            usable(path)


def close_below(folder: Path) -> None:
    """Takes from others the right to write to what this user has below a folder: a library writes
    there with the permissions of the process's umask."""
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process has replaced it
            status = path.lstat()
            if status.st_uid == os.getuid() and not stat.S_ISLNK(status.st_mode):
                path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS_WRITE)


def sweep(folder: Path, *patterns: str) -> None:
    """Removes the temporary files and folders of killed writers: this user's, an hour old."""
    for pattern in patterns:
        for path in _old(folder, pattern):
            with contextlib.suppress(OSError):  # another process sweeps as well
                path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def _old(folder: Path, pattern: str) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for path in list(folder.glob(pattern)):
            with contextlib.suppress(OSError):
                status = path.lstat()
                if status.st_uid == os.getuid() and time.time() - status.st_mtime > _LITTER_S:
                    yield path
