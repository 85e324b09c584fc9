"""The command doctor: this machine, and this installation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import DEFAULT_MODEL
from pyroclast.cli.terminal import colour, write
from pyroclast.errors import KernelError, ModelFileError
from pyroclast.model.device import (
    SETTING,
    gpu_memory,
    size,
    why_not_chosen,
    why_not_cuda,
)
from pyroclast_kernels import features, tables

if TYPE_CHECKING:
    from argparse import Namespace

_REQUIRED = ("numpy", "numba", "tokenizers", "safetensors", "jinja2", "tqdm")
_DISTRIBUTION = "pyroclast-lm"  # on PyPI, `pyroclast` is another project
_OPTIONAL = ("torch", "triton", "starlette", "uvicorn", "matplotlib", "huggingface-hub")


def doctor(args: Namespace) -> None:
    """Prints what is installed and what this machine can do; exit code 0 whatever it finds."""
    found = examine()
    if args.json:
        write(json.dumps(found))
        return
    for topic, facts in found.items():
        write(colour(topic, "1"))
        for name, fact in facts.items():
            shown = ", ".join(map(str, fact)) if isinstance(fact, list) else fact
            if shown != "":
                write(f"  {name:<18} {shown}")


def examine() -> dict[str, dict[str, Any]]:
    """Topic -> name -> fact, ready for JSON."""
    return {
        "versions": {
            "pyroclast": _version(_DISTRIBUTION),
            "python": platform.python_version(),
            **{name: _version(name) for name in _REQUIRED},
        },
        "machine": {
            "cpu": features.cpu_name(),
            "system": platform.platform(),
            "threads": features.n_cpus(),
            "cpus": os.cpu_count(),
            "memory": _memory(),
            **{f"cpp-{level}": features.why_not(level) or "yes" for level in features.LEVEL_FLAGS},
        },
        "gpu": _gpu(),
        "native build": _build(),
        "settings": {
            name: os.environ.get(name, "not set")
            for name in (SETTING, "PYROCLAST_KERNELS", "PYROCLAST_FROZEN", "PYROCLAST_MAX_ISA")
        },
        "caches": _caches(),
        "optional packages": {name: _version(name) for name in _OPTIONAL},
        "demo model": {DEFAULT_MODEL: _demo_model()},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package == _DISTRIBUTION:  # run from a source tree
            from pyroclast import __version__

            return f"{__version__} (not installed: run from its source)"
        return f"not installed: pip install {package}"


def _memory() -> str:
    n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{n_bytes / 2**30:.1f} GiB"


def _build() -> dict[str, Any]:
    """What the install noted about its compiler, and whether the executor is there."""
    spec = importlib.util.find_spec("pyroclast_kernels")
    assert spec is not None, "this module imports from it"
    assert spec.origin is not None, "a package with an __init__.py has an origin"
    path = Path(spec.origin).with_name("_build_info.json")
    facts: dict[str, Any] = {}
    try:
        facts.update(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        facts["status"] = (
            "none: nothing was compiled; install a C++ compiler and run `pip install .`"
        )
    except (OSError, ValueError) as error:
        facts["status"] = f"unreadable: {error}"
    has_executor = importlib.util.find_spec("pyroclast_kernels._executor") is not None
    facts["executor"] = "yes" if has_executor else "no: kernels run one by one, in one thread"
    return facts


def _gpu() -> dict[str, Any]:
    """Whether a model can run on the GPU, and on which; torch is imported only if one can."""
    reason = why_not_cuda()
    facts: dict[str, Any] = {
        "device=cuda": reason or "can be used",
        "device=auto": why_not_chosen() or "takes the GPU where the model fits",
    }
    if reason:
        return facts
    from pyroclast_kernels.triton.ceiling import about

    try:
        free, total = gpu_memory()
        return facts | about() | {"free memory": f"{size(free)} of {size(total)}"}
    except (KernelError, RuntimeError) as error:
        return facts | {"device=cuda": f"the driver failed: {error}"}


def _caches() -> dict[str, Any]:
    from pyroclast_kernels.native.compile import folder
    from pyroclast_kernels.numba.abi import cache_directory

    numba_folder, why_no_numba = cache_directory()
    compiled, why_not_kept = folder()
    table, why = tables.current()
    home = Path(os.path.expanduser(os.environ.get("TRITON_HOME", "~")))
    return {
        "numba kernels": str(numba_folder or f"not cached: {why_no_numba}"),
        "your own kernels": f"not cached: {why_not_kept}" if why_not_kept else str(compiled),
        "tuned table": why if table is None else table.name,
        "triton kernels": os.environ.get("TRITON_CACHE_DIR") or str(home / ".triton" / "cache"),
    }


def _demo_model() -> str:
    from pyroclast.checkpoint.open import open_checkpoint

    try:
        with open_checkpoint(DEFAULT_MODEL) as checkpoint:
            return checkpoint.path
    except ModelFileError as error:
        return str(error)
