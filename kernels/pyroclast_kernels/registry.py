"""Ops, their variants, and which variant runs.

An op's parameters are those of its NumPy reference, in order; a compiled kernel receives them as a
struct of 8-byte fields (pointers, int64, float64).  The reference may also be asked to run: it is
the variant `numpy`.

Where variants come from, none of them listed anywhere else:
    numpy                  the op's reference
    cpp-<level>            <op>/cpp*.cpp, compiled once per instruction-set level
    cpp-<name>             one that CPP_VARIANTS of the op's folder names beside those
    numba, cython          <op>/<technology>_cpu.py, which registers itself with @op.variant
    triton                 <op>/triton_gpu.py, which registers itself with @op.gpu_variant
    numba-<name>, ...      a file of a user's own, wherever it lies: see own_variants.py

Rules choose: `op[.format]=variant`, separated by commas; `*` stands for every op; the word
`frozen` among them, or PYROCLAST_FROZEN=1, leaves tuned tables out.
Precedence: explicit rule, this machine's tuned table (tables.py), the fixed order of PREFERENCE,
NumPy last.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pyroclast_kernels import features, tables, triton_device
from pyroclast_kernels.compiled import compiled_kernels
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.tuned import Tuned

Bind = Callable[[str], "int | Callable[..., None]"]  # format -> what runs
_GetLaunch = Callable[[str], Callable[..., None]]
FROZEN = "frozen"  # among the rules: no tuned tables
CPP_LEVELS = tuple(features.LEVEL_FLAGS)
PREFERENCE = (
    "cpp-avx512bf16", "cpp-avx512vnni", "cpp-avx2", "cython", "cpp-baseline", "numba", "numpy",
)  # fmt: skip
GPU_PREFERENCE = ("triton",)  # all that device="cuda" runs
# A technology's file in an op's folder.
TECHNOLOGIES = {"numba": "numba_cpu", "cython": "cython_cpu", "triton": "triton_gpu"}
OP_NAMES = (
    "embed", "norm", "matmul", "rope_table", "rope", "attention", "quantize", "swiglu", "softmax",
    "sample", "gate_up", "pack",
)  # fmt: skip
_FOLDERS = {
    "rope_table": "rope",
    "quantize": "activation",
    "swiglu": "activation",
    "gate_up": "matmul",
    "pack": "matmul",
}
# An op that does the work of others in one pass, with the same bits -> those others.
FUSED = {"gate_up": ("matmul", "swiglu")}


def folder_of(op_name: str) -> str:
    """The folder, and so the module, that holds an op."""
    return _FOLDERS.get(op_name, op_name)


@dataclass(frozen=True)
class Kernel:
    """A variant bound to a format: an address for the executor, a Python function, or, of a
    selection for the GPU, a launch (triton_launch.py)."""

    op: str
    format: str
    variant: str
    address: int = 0
    function: Callable[..., None] | None = None
    launch: Callable[..., None] | None = None


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
        self.parameters = tuple(inspect.signature(self.reference).parameters)
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
        """Registers the decorated function: format -> launch (triton_launch.py), imported late."""

        def register(get_launch: _GetLaunch) -> _GetLaunch:
            def bind(format: str) -> Callable[..., None]:
                from pyroclast_kernels.triton_launch import on_host

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
        _add_cpp(op, level, level, "baseline" if level == "baseline" else "fma")
    for marked, level in getattr(contract, "CPP_VARIANTS", {}).get(name, {}).items():
        _add_cpp(op, level, marked, marked, f"@{marked}")
    return op


def _add_cpp(op: Op, level: str, name: str, bit_group: str, mark: str = "") -> None:
    """The op's kernels in the build of a level; those that end in `mark`, or in none."""
    kernels, reason = cpp_kernels(level)
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


def preference() -> tuple[str, ...]:
    """PREFERENCE, without what this CPU has but does not run faster: that comes last of all."""
    slow = () if features.has_fast_bf16_dot() else ("cpp-avx512bf16",)
    return tuple(name for name in PREFERENCE if name not in slow)


@cache
def load_technology(op_name: str, technology: str) -> bool:
    """Imports the technology's file, which registers its variants; False if there is none."""
    folder, file = folder_of(op_name), TECHNOLOGIES[technology]
    if not (Path(__file__).parent / folder / f"{file}.py").exists():
        return False
    get_op(op_name)
    importlib.import_module(f"pyroclast_kernels.{folder}.{file}")
    return True


def all_variants(op_name: str) -> dict[str, Variant]:
    """Every variant of an op, best first; imports the optional technologies."""
    from pyroclast_kernels import own_variants  # which imports this module

    for technology in TECHNOLOGIES:
        load_technology(op_name, technology)
    own_variants.load(op_name)
    variants = get_op(op_name).variants
    order = {name: i for i, name in enumerate(preference())}
    return dict(sorted(variants.items(), key=lambda item: order.get(item[0], len(order))))


class Selection:
    """Which variant runs, for each op and format: parsed rules over the fixed order.

    rules: `op[.format]=variant` separated by commas; None reads PYROCLAST_KERNELS.  Raises
    KernelError for a rule that names nothing, or a variant that cannot run here.  table: the name
    of the tuned table in use, or "defaults"; table_notes: why, or what of it is passed over.
    on_gpu: kernels are launches, of the variants in GPU_PREFERENCE or of a rule, and the table is
    one of tiles (triton_choices.py).
    """

    def __init__(self, rules: str | None = None, on_gpu: bool = False) -> None:
        self.on_gpu = on_gpu
        self.rules = os.environ.get("PYROCLAST_KERNELS", "") if rules is None else rules
        self._wanted: dict[tuple[str, str], str] = {}
        words = [part.strip() for part in self.rules.split(",")]
        frozen = FROZEN in words or os.environ.get("PYROCLAST_FROZEN", "0") not in ("", "0")
        for rule in words:
            if rule not in ("", FROZEN):
                self._add_rule(rule)
        self.resolved: dict[str, str] = {}
        self._tuned = Tuned(frozen or on_gpu)
        self.table, self.table_notes = self._tuned.name, self._tuned.notes
        if on_gpu and not frozen and not triton_device.why_not():
            from pyroclast_kernels import triton_choices

            tiles, why = triton_choices.current()
            self.table_notes = [why] if why else []
            self.table = tiles.name if tiles else tables.DEFAULTS

    def _add_rule(self, rule: str) -> None:
        target, equals, variant = (part.strip() for part in rule.partition("="))
        if not equals or not target or not variant:
            raise KernelError(
                f"a kernel rule reads op[.format]=variant, got {rule!r}; "
                "for instance matmul.q8_0=cpp-avx2,sample=numba"
            )
        name, _, format = target.partition(".")
        ops = OP_NAMES if name == "*" else (name,)
        if name == "*" and not any(variant in all_variants(op) for op in OP_NAMES):
            raise KernelError(f"no op has a variant {variant!r}; {_known_variants(OP_NAMES)}")
        if name != "*":
            get_op(name)  # raises for an unknown op
            if variant not in all_variants(name):
                raise KernelError(f"{name} has no variant {variant!r}; {_known_variants(ops)}")
            if format and format not in get_op(name).formats:
                known = ", ".join(get_op(name).formats)
                raise KernelError(f"{name} has no format {format!r}; it has {known}")
        self._wanted[(name, format)] = variant

    def kernel(self, op_name: str, format: str = "f32") -> Kernel:
        """The kernel that runs for an op and format; KernelError says why a rule cannot hold."""
        return self._bind(get_op(op_name), self.variant(op_name, format), format)

    def kernels(self, op_name: str, format: str, args: Mapping[str, Any]) -> tuple[Kernel, Kernel]:
        """The kernels of a call with these arguments, for few tokens and for many."""
        op, shape = get_op(op_name), tables.shape_class(op_name, args)
        few, many = self.variants(op_name, format, shape)
        bound = self._bind(op, few, format)
        return bound, bound if many is few else self._bind(op, many, format)

    def variants(self, op_name: str, format: str, shape: str) -> tuple[Variant, Variant]:
        """The variants of a shape class, for few tokens and for many, of one bit group."""
        default = self.variant(op_name, format)
        if self._rule(op_name, format):
            return default, default
        return self._tuned.variants(default, format, shape, all_variants)

    def fused(
        self, op_name: str, format: str, args: Mapping[str, Any]
    ) -> tuple[Kernel, Kernel] | None:
        """`kernels` of an op of FUSED, or None where it does not stand for its parts: a rule or the
        order gives them variants that differ, or that have no such kernel.  A rule for the fused
        op itself wins over its parts."""
        op = get_op(op_name)
        if not {(op_name, format), (op_name, "")} & self._wanted.keys():
            parts = {
                part: format if format in get_op(part).formats else "f32" for part in FUSED[op_name]
            }
            names = {self.variant(part, f).name for part, f in parts.items()}
            variant = op.variants.get(names.pop()) if len(names) == 1 else None
            if variant is None or variant.unavailable or format not in variant.formats:
                return None
            if any(self._rule(part, f) for part, f in parts.items()):
                kernel = self._bind(op, variant, format)
                return kernel, kernel
        return self.kernels(op_name, format, args)

    def tuned_shapes(self, op_name: str, format: str) -> dict[str, list[str]]:
        """variant -> the shape and token classes where the table puts it before the default."""
        if self._rule(op_name, format):
            return {}
        return self._tuned.shapes(self.variant(op_name, format), format, all_variants)

    def _rule(self, op_name: str, format: str) -> str:
        """The variant that a rule asks for, or empty."""
        for key in ((op_name, format), (op_name, ""), ("*", format), ("*", "")):
            if key in self._wanted:
                return self._wanted[key]
        return ""

    def variant(self, op_name: str, format: str = "f32") -> Variant:
        """The variant behind `kernel`, not yet bound: nothing is compiled.  Not the table's: that
        takes a shape."""
        op = get_op(op_name)
        if rule := self._rule(op_name, format):
            return self._forced(op_name, rule, format)
        for name in GPU_PREFERENCE if self.on_gpu else preference():
            if name in TECHNOLOGIES:
                load_technology(op_name, name)
            variant = op.variants.get(name)
            if variant and not variant.unavailable and format in variant.formats:
                return variant
        known = ", ".join(op.formats)
        raise KernelError(f"no variant of {op_name} takes format {format!r}; it has {known}")

    def _forced(self, op_name: str, name: str, format: str) -> Variant:
        variants = all_variants(op_name)
        if name not in variants:
            raise KernelError(f"{op_name} has no variant {name!r}; {_known_variants((op_name,))}")
        variant = variants[name]
        if variant.unavailable:
            raise KernelError(f"{op_name}={name} cannot run here: {variant.unavailable}")
        if format not in variant.formats:
            known = ", ".join(variant.formats)
            raise KernelError(f"{op_name}={name} does not take format {format}; it takes {known}")
        if self.on_gpu and variant.launch is None:
            known = ", ".join(name for name, other in variants.items() if other.launch)
            raise KernelError(f"{op_name}={name} runs on the CPU; on the GPU there are {known}")
        return variant

    def _bind(self, op: Op, variant: Variant, format: str) -> Kernel:
        key = f"{op.name}.{format}"
        names = {variant.name, *filter(None, self.resolved.get(key, "").split("+"))}
        self.resolved[key] = "+".join(sorted(names))  # several where the table splits shapes
        if self.on_gpu:
            assert variant.launch is not None, "chosen among those that have one"
            return Kernel(op.name, format, variant.name, launch=variant.launch(format))
        bound = variant.bind(format)
        if callable(bound):
            return Kernel(op.name, format, variant.name, function=bound)
        return Kernel(op.name, format, variant.name, address=bound)


def _known_variants(ops: Iterable[str]) -> str:
    names = {name: None for op in ops for name in all_variants(op)}
    return f"there are {', '.join(names)}"
