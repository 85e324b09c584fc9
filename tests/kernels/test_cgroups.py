"""Limits of cgroups, on trees of files like those that Linux shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyroclast_kernels import cgroups, features

GIB = 1 << 30


def tree(root: Path, membership: str, files: dict[str, object]) -> Path:
    """A file system with /proc/self/cgroup and files below /sys/fs/cgroup."""
    texts = {"proc/self/cgroup": membership}
    texts |= {f"sys/fs/cgroup/{name}": str(value) for name, value in files.items()}
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "50000 100000"}, 1),
        ({"a/b/cpu.max": "250000 100000"}, 3),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ({"cpu.max": "100000 50000", "a/b/cpu.max": "300000 100000"}, 2),
        ({"a/c/cpu.max": "100000 100000"}, None),  # of a neighbour
        ({"unified/a/cpu.max": "400000 100000"}, 4),
        ({"cpu.max": "100000"}, None),
        ({"cpu.max": "100000 0"}, None),
        ({"cpu.max": "words"}, None),
    ],
)
def test_the_tightest_cpu_quota_above_the_process_counts(
    tmp_path: Path, files: dict[str, object], expected: int | None
) -> None:
    assert cgroups.cpu_quota(tree(tmp_path, "0::/a/b", files)) == expected


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "expected"), [("-1", None), ("150000", 2)])
def test_cpu_quota_of_version_1(
    tmp_path: Path, folder: str, quota: str, expected: int | None
) -> None:
    files = {f"{folder}/a/cpu.cfs_quota_us": quota, f"{folder}/a/cpu.cfs_period_us": 100000}
    root = tree(tmp_path, "4:memory:/\n3:cpu,cpuacct:/a/b\n0::/", files)
    assert cgroups.cpu_quota(root) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"a/b/memory.max": "max", "a/b/memory.current": GIB}, None),
        ({"a/b/memory.max": 3 * GIB, "a/b/memory.current": GIB}, 2 * GIB),
        ({"memory.max": 5 * GIB, "memory.current": 4 * GIB, "a/memory.max": 2 * GIB}, GIB),
        ({"memory.max": GIB, "memory.current": 2 * GIB}, 0),
        (
            {
                "a/memory.max": 3 * GIB,
                "a/memory.current": 2 * GIB,
                "a/memory.stat": f"anon 5\ninactive_file {GIB}\nodd\ninactive_anon 7",
            },
            2 * GIB,
        ),
    ],
)
def test_the_tightest_memory_limit_above_the_process_counts(
    tmp_path: Path, files: dict[str, object], expected: int | None
) -> None:
    assert cgroups.memory_left(tree(tmp_path, "0::/a/b", files)) == expected


def test_memory_of_version_1(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": 0x7FFFFFFFFFFFF000,  # what the root shows: none
        "memory/a/memory.limit_in_bytes": 3 * GIB,
        "memory/a/memory.usage_in_bytes": 2 * GIB,
        "memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 2}",
        "memory/a/b/memory.limit_in_bytes": 8 * GIB,
    }
    root = tree(tmp_path, "4:memory:/a/b\n0::/", files)
    assert cgroups.memory_left(root) == 3 * GIB // 2


@pytest.mark.parametrize("path", ["/docker/0123", "/../../elsewhere"])
def test_a_container_whose_path_is_the_hosts(tmp_path: Path, path: str) -> None:
    files = {"memory.max": GIB, "cpu.max": "100000 100000"}
    root = tree(tmp_path, f"0::{path}", files)
    assert (cgroups.memory_left(root), cgroups.cpu_quota(root)) == (GIB, 1)


def test_without_cgroups(tmp_path: Path) -> None:
    assert (cgroups.memory_left(tmp_path), cgroups.cpu_quota(tmp_path)) == (None, None)


def test_threads_follow_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for quota, expected in ((None, 8), (3, 3), (64, 8)):
        monkeypatch.setattr(cgroups, "cpu_quota", lambda quota=quota: quota)
        assert features.n_cpus() == expected
