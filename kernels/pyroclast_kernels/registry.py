"""Ops, their variants, and which variant runs.

An op's parameters are those of its NumPy reference, in order; a compiled kernel receives them as a
struct of 8-byte fields (pointers, int64, float64).  The reference may also be asked to run: it is
the variant `numpy`.

Where variants come from, none of them listed anywhere else:
    numpy                  the op's reference
    cpp-<level>            <op>/cpp.cpp or <op>/cpp/*.cpp, compiled once per instruction-set level;
                           of a partial level, those in PARTIAL_LEVELS
    cpp-<name>             one that CPP_VARIANTS of the op's folder names beside those
    numba, cython          <op>/<technology>_cpu.py, which registers itself with @op.variant
    triton                 <op>/triton_gpu.py, which registers itself with @op.gpu_variant
                           (or <op>/<technology>/, where a variant has more files than two)
    numba-<name>, ...      a file of a user's own, wherever it lies: see user_variants.py

Which of them runs is for selection.py to say.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pyroclast_kernels import features
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.native.compiled import compiled_kernels
from pyroclast_kernels.triton import device as triton_device

Bind = Callable[[str], "int | Callable[..., None]"]  # format -> what runs
_GetLaunch = Callable[[str], Callable[..., None]]
CPP_LEVELS = tuple(features.LEVEL_FLAGS)
_PRODUCTS = ("matmul", "gate_up", "expert_gate_up", "expert_down")
# level -> the ops that are built at it, because its instructions make them faster; the others run
# a lower level, with the same bits.  CMakeLists.txt names the sources of these ops.
PARTIAL_LEVELS = {
    "avxvnni": _PRODUCTS,
    "avx512": (*_PRODUCTS, "attention"),
    "avx512int8": (*_PRODUCTS, "attention"),
}
# A technology's file in an op's folder, where it is not a folder of the technology's name.
TECHNOLOGIES = {"numba": "numba_cpu", "cython": "cython_cpu", "triton": "triton_gpu"}
OP_NAMES = (
    "embed", "norm", "matmul", "rope_table", "rope", "attention", "quantize", "glu", "softmax",
    "sample", "gate_up", "pack", "low_rank", "gather_rows", "scale_logits", "residual", "qk_norm",
    "route", "group", "expert_gate_up", "expert_down", "combine",
    "conv1d", "l2_norm", "delta_rule", "gated_norm", "sigmoid_gate", "ssm", "layer_input",
    "altup_predict", "altup_correct", "match_rms", "sparse_gate",
)  # fmt: skip
_FOLDERS = {
    "rope_table": "rope",
    "quantize": "activation",
    "glu": "activation",
    "gate_up": "matmul",
    "pack": "matmul",
    "group": "route",
    "expert_gate_up": "experts",
    "expert_down": "experts",
    "combine": "experts",
    "sigmoid_gate": "gated_norm",
    "altup_predict": "altup",
    "altup_correct": "altup",
    "match_rms": "altup",
}


def folder_of(op_name: str) -> str:
    """The folder, and so the module, that holds an op."""
    return _FOLDERS.get(op_name, op_name)


@dataclass(frozen=True)
class Variant:
    """One implementation of an op.  bit_group names the variants that give identical bits.
    launch, where it runs on a GPU: format -> what is called with tensors that lie there.
    rounds: 16-bit formats also round the other operand of their products to 16 bits."""

    op: str
    name: str
    formats: tuple[str, ...]
    bit_group: str
    unavailable: str  # why it cannot run here; empty if it can
    bind: Bind
    launch: Callable[[str], Callable[..., None]] | None = None
    rounds: bool = False


@dataclass
class Op:
    """A contract: the reference's docstring and parameters, and the weight or cache formats."""

    name: str
    reference: Callable[..., None]
    formats: tuple[str, ...] = ("f32",)
    variants: dict[str, Variant] = field(default_factory=dict)

    def __post_init__(self) -> None:
        signature = inspect.signature(self.reference).parameters
        self.parameters = tuple(signature)
        # Kernels read these as doubles: a caller's int would be taken for the bits of one.
        self.doubles = tuple(name for name, p in signature.items() if p.annotation == "float")
        self._add(Variant(self.name, "numpy", self.formats, "numpy", "", lambda _: self.reference))

    def _add(self, variant: Variant) -> None:
        if variant.name in self.variants:
            raise KernelError(f"{self.name} already has a variant {variant.name}")
        self.variants[variant.name] = variant

    def variant(
        self,
        name: str,
        *,
        formats: tuple[str, ...] | None = None,
        bit_group: str | None = None,
        unavailable: str = "",
    ) -> Callable[[Bind], Bind]:
        """Registers the decorated function: format -> address of a kernel of the C ABI, or a
        Python function with the reference's parameters."""

        def register(bind: Bind) -> Bind:
            known = formats or self.formats
            self._add(Variant(self.name, name, known, bit_group or name, unavailable, bind))
            return bind

        return register

    def gpu_variant(
        self, name: str, *, formats: tuple[str, ...] | None = None, rounds: bool = False
    ) -> Callable[[_GetLaunch], _GetLaunch]:
        """Registers the decorated function: format -> launch (triton/launch.py), imported late."""

        def register(get_launch: _GetLaunch) -> _GetLaunch:
            def bind(format: str) -> Callable[..., None]:
                from pyroclast_kernels.triton.launch import on_host

                return on_host(get_launch(format))

            why_not, known = triton_device.why_not(), formats or self.formats
            really = rounds and not triton_device.INTERPRETED  # which computes in float32
            self._add(Variant(self.name, name, known, name, why_not, bind, get_launch, really))
            return get_launch

        return register


def cpp_kernels(level: str) -> tuple[dict[str, int], str]:
    """({"op.format": address}, why there are none) of one instruction-set level."""
    return compiled_kernels(f"_cpp_{level}", level)


@cache
def get_op(name: str) -> Op:
    """The op of that name with its NumPy and C++ variants; KernelError lists the names."""
    if name not in OP_NAMES:
        raise KernelError(f"unknown op {name!r}; there are {', '.join(OP_NAMES)}")
    folder = folder_of(name)
    reference = importlib.import_module(f"pyroclast_kernels.{folder}.reference")
    contract = importlib.import_module(f"pyroclast_kernels.{folder}")
    formats = getattr(contract, "OP_FORMATS", {}).get(name, contract.FORMATS)
    op = Op(name, getattr(reference, name), formats)
    for level in CPP_LEVELS:
        if name in PARTIAL_LEVELS.get(level, (name,)):
            _add_cpp(op, level, level, features.bit_group(level))
    for marked, level in getattr(contract, "CPP_VARIANTS", {}).get(name, {}).items():
        _add_cpp(op, level, marked, marked, f"@{marked}")
    return op


def _add_cpp(op: Op, level: str, name: str, bit_group: str, mark: str = "") -> None:
    """The op's kernels in the build of a level; those that end in `mark`, or in none."""
    kernels, reason = cpp_kernels(level)
    reason = reason or features.why_not_beside_level(name)
    addresses: dict[str, int] = {}
    for key, address in kernels.items():
        target, at, rest = key.partition("@")
        op_name, _, format = target.partition(".")
        if op_name == op.name and at + rest == mark:
            addresses[format] = address
    if not reason and not addresses:
        return  # this op has no C++ source
    op.variant(f"cpp-{name}", formats=tuple(addresses), bit_group=bit_group, unavailable=reason)(
        lambda format: addresses[format]
    )


@cache
def load_technology(op_name: str, technology: str) -> bool:
    """Imports the technology's file, which registers its variants; False if there is none."""
    folder, file = folder_of(op_name), TECHNOLOGIES[technology]
    here = Path(__file__).parent / folder
    if (here / technology).is_dir():
        file = technology
    elif not (here / f"{file}.py").exists():
        return False
    get_op(op_name)
    importlib.import_module(f"pyroclast_kernels.{folder}.{file}")
    return True
