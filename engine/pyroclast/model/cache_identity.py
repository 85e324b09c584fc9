"""What decides the bits of a block of the KV cache, beside the tokens: the model and the kernels.

A block that another process computed is used only if both digests are equal.  The weights are
hashed as they lie in memory, so a copy of a file is the same model, and a file that was edited in
one row is another.  The kernels count by bit group: variants that give the same bits are the same.
The Python code that records steps and fills them counts as well: a fault that was mended in it must
not live on in pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import pyroclast_kernels
from pyroclast.families.config import ModelConfig
from pyroclast.families.rope import inv_freq
from pyroclast.model.load_plan import Plan
from pyroclast.model.weights import Weights
from pyroclast_kernels import tables
from pyroclast_kernels.program import OpCall
from pyroclast_kernels.registry import get_op
from pyroclast_kernels.selection import PREFERENCE, Kernel
from pyroclast_kernels.weights.packing import PackedWeight

_N_DIGEST_BYTES = 16
_CHUNK_BYTES = 16 << 20  # hashed by one thread
_ENGINE = Path(__file__).parents[1]
# What decides which ops run on which arrays, and what is in these: folders of Python files.
_CODE = (
    *(_ENGINE / name for name in ("engine", "families", "model")),
    *(Path(folder) for folder in pyroclast_kernels.__path__),
)
_NOT_CACHED = ("sample", "scale_logits", "gather_rows", "pack")  # what they write is not cached


@dataclass(frozen=True)
class CacheIdentity:
    """model and kernels are digests of 16 bytes; a block holds the keys and values of block_size
    positions in kv_dtype, page_bytes in all layers."""

    model: bytes
    kernels: bytes
    kv_dtype: str
    block_size: int
    page_bytes: int


def model_digest(config: ModelConfig, weights: Weights, plan: Plan) -> bytes:
    """Of the config, the rotary frequencies in use, and every byte of the weights."""
    digest = hashlib.sha256(repr((config, plan.compute)).encode())
    for attention in config.attentions.values():
        if (rope := attention.rope) is not None:  # some depend on the context in use
            frequencies = inv_freq(rope, attention.head_dim, plan.max_seq_len)
            digest.update(frequencies.tobytes())
    chunks: list[Any] = []
    names: dict[int, str] = {}  # of each array, which has several where weights are tied
    for name, array in _arrays(weights, "weights"):
        first = names.setdefault(id(array), name)
        digest.update(f"{name} {first} {array.dtype} {array.shape};".encode())
        if first != name:
            continue
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        chunks += [raw[i : i + _CHUNK_BYTES] for i in range(0, len(raw), _CHUNK_BYTES)]
    from concurrent.futures import ThreadPoolExecutor  # late: few processes keep pages

    with ThreadPoolExecutor(plan.n_threads) as threads:
        for each in threads.map(_digest, chunks):
            digest.update(each)
    return digest.digest()[:_N_DIGEST_BYTES]


def kernels_digest(calls: Sequence[OpCall]) -> bytes:
    """Of the bit groups that run for each op, format and shape, and of the build and the code that
    they are from."""
    used = {
        (
            call.kernel.op,
            call.kernel.format,
            tables.shape_class(call.kernel.op, call.arguments),
            _bit_group(call.kernel),
            _bit_group(call.many or call.kernel),
        )
        for call in calls
        if call.kernel.op not in _NOT_CACHED
    }
    facts: list[object] = [tables.build_id(), code_digest(), sorted(used)]
    if not all(_same_everywhere(kernel) for call in calls for kernel in (call.kernel, call.many)):
        from importlib.metadata import version  # late: every start would pay for it

        facts += [tables.fingerprint(), np.__version__, version("numba")]
    text = repr(facts)
    return hashlib.sha256(text.encode()).digest()[:_N_DIGEST_BYTES]


@cache
def code_digest() -> str:
    """Of the Python files below _CODE."""
    digest = hashlib.sha256()
    for folder in _CODE:
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _same_everywhere(kernel: Kernel | None) -> bool:
    """Whether the kernel gives the same bits on every machine: our C++ does.  What NumPy, Numba
    and a user's own compiler make depends on the CPU and on their versions."""
    return kernel is None or (kernel.variant.startswith("cpp-") and kernel.variant in PREFERENCE)


def _bit_group(kernel: Kernel) -> str:
    return get_op(kernel.op).variants[kernel.variant].bit_group


def _digest(chunk: Any) -> bytes:
    return hashlib.sha256(chunk).digest()  # without the GIL


def _arrays(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every array below a tree of dataclasses and tuples, with the path to it.  Fields that are not
    compared only repeat what others hold."""
    if isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, PackedWeight):
        yield f"{name} {value.format} {value.n_rows} {value.n_cols}", value.data
    elif isinstance(value, tuple):
        for i, each in enumerate(value):
            yield from _arrays(each, f"{name}.{i}")
    elif is_dataclass(value):
        for field in (each for each in fields(value) if each.compare):
            yield from _arrays(getattr(value, field.name), f"{name}.{field.name}")
    else:
        # What says how the arrays are used comes from the config, which is hashed as well.
        assert value is None or isinstance(value, int | float | str), f"{name} is a {type(value)}"
