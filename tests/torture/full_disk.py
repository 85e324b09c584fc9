"""A disk that fills up in the middle of any writer: an error in words, the old file, no litter.

The disk is a small tmpfs where the process may mount one, else a limit on the size of files."""

from __future__ import annotations

import os
import random
import resource

from torture.campaign import Kind
from torture.nursery import Nursery
from torture.writers import WRITERS, Desk, runs

_CODE = """
import ctypes, os, resource, shutil, signal, sys
from pathlib import Path
from pyroclast import PyroclastError
from pyroclast_kernels.errors import KernelError
from torture.writers import WRITERS
name, path, n_bytes, mounts = argv[0], Path(argv[1]), int(argv[2]), argv[3] == "mount"
if mounts:
    content = path.read_bytes()
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private, recursive = 0x20000, 1 << 18, 1 << 14
    done = libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private | recursive, None)
    options = b"mode=700,size=%d" % n_bytes
    done = done or libc.mount(b"tmpfs", bytes(path.parent), b"tmpfs", 0, options)
    if done:
        mounts = False
    elif not WRITERS[name].makes:
        path.write_bytes(content)
if not mounts:
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))
try:
    WRITERS[name].write(path, 1)
    said = "written"
except (PyroclastError, KernelError, OSError) as error:
    said = f"refused: {error}"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
if mounts:
    content = path.read_bytes() if path.exists() else content
    litter = [each.name for each in path.parent.iterdir() if each != path]
    libc.umount2(bytes(path.parent), 2)
    path.write_bytes(content)
    assert not litter, litter
print(said)
"""


def _case(rng: random.Random, nursery: Nursery, desk: Desk) -> list[str]:
    name = rng.choice(sorted(WRITERS))
    mounts = os.geteuid() == 0 and rng.random() < 0.5
    size = desk.size(name, 1)
    n_bytes = rng.randint(0, size - 1)
    if mounts:
        page = resource.getpagesize()
        n_bytes = n_bytes // page * page
        if WRITERS[name].makes:
            n_bytes = max(n_bytes, page)  # a tmpfs of 0 bytes has no limit
        else:  # the old file lies there as well
            n_bytes += (desk.size(name, 0) // page + 1) * page
    ended = nursery.run(_CODE, name, desk.path(name), n_bytes, "mount" if mounts else "limit")
    found = []
    if ended.code or not ended.out.startswith("refused") or "Traceback" in ended.err:
        found.append(f"{name} with {n_bytes} bytes: {ended}")
    if 0 not in desk.versions(name) or desk.litter(name):
        found.append(f"{name} with {n_bytes} bytes: the old file is gone, or {desk.litter(name)}")
    if desk.versions(name) != [0]:
        found += filter(None, [desk.write(name, 0)])
    return found


FULL_DISK = Kind("disk", runs(_case), memory_bytes=None)
