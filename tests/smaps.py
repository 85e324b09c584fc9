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
