"""What the system says of a piece of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def vm_flags(array: Any) -> list[str]:
    """The VmFlags of the mapping that a NumPy array lies in: "hg", "nh" (huge pages), "sh" ..."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            begin, end = (int(each, 16) for each in first.split("-"))
            inside = begin <= array.ctypes.data < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError("no mapping holds the array")


def file_memory(pid: int, path: Path) -> dict[str, int]:
    """Bytes of a process's mappings of that file, by the names of smaps ("Rss", "Pss"); {} if it
    maps none."""
    found: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            inside = line.endswith(f" {path}")
        elif inside and rest[-1] == "kB":
            found[name[:-1]] = found.get(name[:-1], 0) + 1024 * int(rest[0])
    return found
