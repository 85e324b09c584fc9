"""Ops, their variants, and which variant runs.

An op's parameters are those of its NumPy reference, in order; a compiled kernel receives them as a
struct of 8-byte fields (pointers, int64, float64).  The reference may also be asked to run: it is
the variant `numpy`.

Where variants come from, none of them listed anywhere else:
    numpy                  the op's reference
    cpp-<level>            <op>/cpp*.cpp, compiled once per instruction-set level
    numba, cython, ...     <op>/<technology>_cpu.py, which registers itself with @op.variant

Rules choose: `op[.format]=variant`, separated by commas; `*` stands for every op.
Precedence: explicit rule, then the fixed order of PREFERENCE, NumPy last.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pyroclast_kernels import features
from pyroclast_kernels.errors import KernelError

CPP_LEVELS = tuple(features.LEVEL_FLAGS)
PREFERENCE = ("cpp-avx512vnni", "cpp-avx2", "cython", "cpp-baseline", "numba", "numpy")
TECHNOLOGIES = ("numba", "cython")  # files <technology>_cpu.py in an op's folder
OP_NAMES = (
    "embed", "norm", "matmul", "rope_table", "rope", "attention", "quantize", "swiglu", "softmax",
    "sample", "pack",
)  # fmt: skip
_FOLDERS = {
    "rope_table": "rope",
    "quantize": "activation",
    "swiglu": "activation",
    "pack": "matmul",
}


def folder_of(op_name: str) -> str:
    """The folder, and so the module, that holds an op."""
    return _FOLDERS.get(op_name, op_name)


@dataclass(frozen=True)
class Kernel:
    """A variant bound to a format: an address for the executor, or a Python function."""

    op: str
    format: str
    variant: str
    address: int = 0
    function: Callable[..., None] | None = None


@dataclass(frozen=True)
class Variant:
    """One implementation of an op.  bit_group names the variants that give identical bits."""

    op: str
    name: str
    formats: tuple[str, ...]
    bit_group: str
    unavailable: str  # why it cannot run here; empty if it can
    bind: Callable[[str], int | Callable[..., None]]


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
    ) -> Callable[[Callable[[str], int]], Callable[[str], int]]:
        """Registers the decorated function, format -> address of a kernel of the C ABI."""

        def register(bind: Callable[[str], int]) -> Callable[[str], int]:
            known = formats or self.formats
            self._add(Variant(self.name, name, known, bit_group or name, unavailable, bind))
            return bind

        return register


@cache
def cpp_kernels(level: str) -> tuple[dict[str, int], str]:
    """({"op.format": address}, why there are none) of one instruction-set level."""
    reason = features.why_not(level)
    if reason:
        return {}, reason
    name = f"pyroclast_kernels._cpp_{level}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return {}, "not built: no C++ compiler at install (see `pyroclast doctor`)"
    return dict(module.kernels()), ""


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
        _add_cpp(op, level)
    return op


def _add_cpp(op: Op, level: str) -> None:
    kernels, reason = cpp_kernels(level)
    prefix = op.name + "."
    formats = tuple(key[len(prefix) :] for key in kernels if key.startswith(prefix))
    if not reason and not formats:
        return  # this op has no C++ source
    bit_group = "baseline" if level == "baseline" else "fma"
    op.variant(f"cpp-{level}", formats=formats, bit_group=bit_group, unavailable=reason)(
        lambda format: kernels[prefix + format]
    )


@cache
def load_technology(op_name: str, technology: str) -> bool:
    """Imports <op>/<technology>_cpu.py, which registers its variants; False if there is none."""
    folder = folder_of(op_name)
    if not (Path(__file__).parent / folder / f"{technology}_cpu.py").exists():
        return False
    get_op(op_name)
    importlib.import_module(f"pyroclast_kernels.{folder}.{technology}_cpu")
    return True


def all_variants(op_name: str) -> dict[str, Variant]:
    """Every variant of an op, best first; imports the optional technologies."""
    for technology in TECHNOLOGIES:
        load_technology(op_name, technology)
    variants = get_op(op_name).variants
    order = {name: i for i, name in enumerate(PREFERENCE)}
    return dict(sorted(variants.items(), key=lambda item: order.get(item[0], len(order))))


class Selection:
    """Which variant runs, for each op and format: parsed rules over the fixed order.

    rules: `op[.format]=variant` separated by commas; None reads PYROCLAST_KERNELS.  Raises
    KernelError for a rule that names nothing, or a variant that cannot run here.
    """

    def __init__(self, rules: str | None = None) -> None:
        self.rules = os.environ.get("PYROCLAST_KERNELS", "") if rules is None else rules
        self._wanted: dict[tuple[str, str], str] = {}
        for rule in filter(None, (part.strip() for part in self.rules.split(","))):
            self._add_rule(rule)
        self.resolved: dict[str, str] = {}

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

    def variant(self, op_name: str, format: str = "f32") -> Variant:
        """The variant behind `kernel`, not yet bound: nothing is compiled."""
        op = get_op(op_name)
        for key in ((op_name, format), (op_name, ""), ("*", format), ("*", "")):
            if key in self._wanted:
                return self._forced(op_name, self._wanted[key], format)
        for name in PREFERENCE:
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
        return variant

    def _bind(self, op: Op, variant: Variant, format: str) -> Kernel:
        bound = variant.bind(format)
        self.resolved[f"{op.name}.{format}"] = variant.name
        if callable(bound):
            return Kernel(op.name, format, variant.name, function=bound)
        return Kernel(op.name, format, variant.name, address=bound)


def _known_variants(ops: Iterable[str]) -> str:
    names = {name: None for op in ops for name in all_variants(op)}
    return f"there are {', '.join(names)}"


def report(rules: str | None = None) -> list[dict[str, str]]:
    """One row per op, format and variant: op, format, variant, status, reason, bit_group.

    status is "chosen", "available" or "unavailable"; reason says why an unavailable one is not.
    """
    selection = Selection(rules)
    rows = []
    for op_name in OP_NAMES:
        for format in get_op(op_name).formats:
            chosen = selection.variant(op_name, format).name
            for variant in all_variants(op_name).values():
                reason = variant.unavailable
                if not reason and format not in variant.formats:
                    reason = f"does not take format {format}"
                status = "unavailable" if reason else "available"
                if variant.name == chosen:
                    status = "chosen"
                rows.append(
                    {
                        "op": op_name,
                        "format": format,
                        "variant": variant.name,
                        "status": status,
                        "reason": reason,
                        "bit_group": variant.bit_group,
                    }
                )
    return rows
