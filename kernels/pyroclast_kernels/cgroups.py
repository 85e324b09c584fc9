"""Limits of the cgroups that hold this process: CPU quota and memory.

A process is held by its own cgroup and by every one above it, so the smallest limit counts.  Both
versions of the interface are read, since a host may mount both.  `root` is where the file system
begins; tests pass a tree of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
_MOUNT = "sys/fs/cgroup"


def cpu_quota(root: Path = ROOT) -> int | None:
    """CPUs that the tightest quota allows, rounded up; None without a quota."""
    quotas = [_quota_v2(folder) for folder in _folders_v2(root)]
    quotas += [_quota_v1(folder) for folder in _folders_v1(root, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_left(root: Path = ROOT) -> int | None:
    """Bytes until the first memory limit is reached, at least 0; None without a limit."""
    rooms = [
        _room(folder, "memory.max", "memory.current", "inactive_file")
        for folder in _folders_v2(root)
    ]
    rooms += [
        _room(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for folder in _folders_v1(root, "memory")
    ]
    return min((room for room in rooms if room is not None), default=None)


def _quota_v2(folder: Path) -> int | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return _cpus(quota, period)


def _quota_v1(folder: Path) -> int | None:
    return _cpus(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _cpus(quota: str, period: str) -> int | None:
    """Both in microseconds; "max" or -1 stand for no quota."""
    quota_us, period_us = _number(quota), _number(period)
    if quota_us is None or not period_us:
        return None
    return max(1, -(-quota_us // period_us))


def _room(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | None:
    """What a cgroup's limit leaves.  Cached file pages that nobody has used for a while count as
    usage, but the kernel drops them first: a model that was just downloaded must not fill it."""
    limit = _number(_text(folder / limit_name))
    if limit is None:
        return None
    usage = _number(_text(folder / usage_name)) or 0
    words = [line.split() for line in _text(folder / "memory.stat").splitlines()]
    cached = next((_number(line[1]) for line in words if line[:1] == [cache_name] and line[1:]), 0)
    return max(0, limit - max(0, usage - (cached or 0)))


def _folders_v2(root: Path) -> Iterator[Path]:
    for controllers, path in _memberships(root):
        if controllers == [""]:
            for mount in (_MOUNT, f"{_MOUNT}/unified"):
                yield from _upward(root / mount, path)


def _folders_v1(root: Path, controller: str) -> Iterator[Path]:
    for controllers, path in _memberships(root):
        if controller in controllers:
            for name in dict.fromkeys((controller, ",".join(controllers))):
                yield from _upward(root / _MOUNT / name, path)


def _memberships(root: Path) -> Iterator[tuple[list[str], str]]:
    """Controllers and path of each line of /proc/self/cgroup; version 2 has no controllers."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        yield controllers.split(","), path


def _upward(mount: Path, path: str) -> Iterator[Path]:
    """The cgroup's folder and those above it, the mount last.

    A container may mount its own cgroup while /proc still tells the host's path: the folders that
    are missing have no files to read, and the mount itself is the container's cgroup."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    for n in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:n])


def _text(path: Path) -> str:
    """A file's text without the newline at its end; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
