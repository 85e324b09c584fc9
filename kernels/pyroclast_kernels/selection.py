"""Which variant of each op runs: rules first, then this machine's tuned table, then a fixed order.

Rules choose: `op[.format]=variant`, separated by commas; `*` stands for every op, and with a
partial level runs the next lower one where that level has no kernel; the word `frozen` among them,
or PYROCLAST_FROZEN=1, leaves tuned tables out.
Precedence: explicit rule, this machine's tuned table (tables.py), the fixed order of PREFERENCE,
NumPy last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyroclast_kernels import features, tables, user_variants
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.registry import (
    CPP_LEVELS,
    OP_NAMES,
    PARTIAL_LEVELS,
    TECHNOLOGIES,
    Op,
    Variant,
    cpp_kernels,
    get_op,
    load_technology,
)
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.tuned import Tuned

FROZEN = "frozen"  # among the rules: no tuned tables
PREFERENCE = (
    "cpp-amxbf16", "cpp-avx512bf16", "cpp-avx512vnni", "cpp-avx512int8", "cpp-avx512",
    "cpp-avxvnni", "cpp-avx2", "cpp-i8mm", "cpp-dotprod", "cython", "cpp-baseline",
    "numba", "numpy",
)  # fmt: skip
GPU_PREFERENCE = ("triton",)  # all that device="cuda" runs
# An op that does the work of others in one pass, with the same bits -> those others.
FUSED = {"gate_up": ("matmul", "glu")}


@dataclass(frozen=True)
class Kernel:
    """A variant bound to a format: an address for the executor, a Python function, or, of a
    selection for the GPU, a launch (triton/launch.py)."""

    op: str
    format: str
    variant: str
    address: int = 0
    function: Callable[..., None] | None = None
    launch: Callable[..., None] | None = None


def preference() -> tuple[str, ...]:
    """PREFERENCE without variants that are slow on this CPU; all_variants lists those last."""
    slow = () if features.has_fast_bf16_dot() else ("cpp-avx512bf16",)
    return tuple(name for name in PREFERENCE if name not in slow)


def all_variants(op_name: str) -> dict[str, Variant]:
    """Every variant of an op, best first; imports the optional technologies."""
    for technology in TECHNOLOGIES:
        load_technology(op_name, technology)
    user_variants.load(op_name)
    variants = get_op(op_name).variants
    order = {name: i for i, name in enumerate(preference())}
    return dict(sorted(variants.items(), key=lambda item: order.get(item[0], len(order))))


class Selection:
    """Chooses the variant of each op and format: parsed rules, then the table, then a fixed order.

    rules: `op[.format]=variant` separated by commas; None reads PYROCLAST_KERNELS.  Raises
    KernelError for a rule that names nothing, or a variant that cannot run here.  table: the name
    of the tuned table in use, or "defaults"; table_notes: why, or what of it is passed over.
    on_gpu: kernels are launches, of the variants in GPU_PREFERENCE or of a rule, and the table is
    one of tiles (triton/choices.py).
    """

    def __init__(self, rules: str | None = None, on_gpu: bool = False) -> None:
        self.on_gpu = on_gpu
        self._order = GPU_PREFERENCE if on_gpu else preference()
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
            from pyroclast_kernels.triton import choices as triton_choices

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
        if name == "*" and not any(variant in all_variants(op) for op in OP_NAMES):
            raise KernelError(f"no op has a variant {variant!r}; {_known_variants(OP_NAMES)}")
        if name != "*":
            get_op(name)  # raises for an unknown op
            if variant not in all_variants(name):
                raise _no_variant(name, variant)
            if format and format not in get_op(name).formats:
                known = ", ".join(get_op(name).formats)
                raise KernelError(f"{name} has no format {format!r}; it has {known}")
        self._wanted[(name, format)] = variant

    def idle_rules(self) -> list[str]:
        """The rules that name an op, or an op's format, of which no kernel was taken so far."""
        taken = {key for name in self.resolved for key in (name, name.partition(".")[0])}
        return [
            f"{op}.{format}={variant}" if format else f"{op}={variant}"
            for (op, format), variant in self._wanted.items()
            if op != "*" and (f"{op}.{format}" if format else op) not in taken
        ]

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
        """`kernels` of an op of FUSED, or None where it does not stand for its parts: a rule gives
        them variants that differ, the order gives them variants whose bits differ, or the first
        part's variant has no such kernel.  A rule for the fused op itself wins over its parts."""
        op = get_op(op_name)
        if self._by_star(op_name, format):
            parts = {
                part: format if format in get_op(part).formats else "f32" for part in FUSED[op_name]
            }
            rules = {self._rule(part, f) for part, f in parts.items()}
            chosen, ruled = [self.variant(part, f) for part, f in parts.items()], rules != {""}
            # One rule for both may still give them two levels, with the same bits.
            by_name = len(rules) > 1
            if len({part.name if by_name else part.bit_group for part in chosen}) > 1:
                return None
            variant = op.variants.get(chosen[0].name)
            if variant is None or variant.unavailable or format not in variant.formats:
                return None
            if ruled:
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

    def _by_star(self, op_name: str, format: str) -> bool:
        """Whether no rule names the op: if one holds, it is one for every op."""
        return not {(op_name, format), (op_name, "")} & self._wanted.keys()

    def variant(self, op_name: str, format: str = "f32") -> Variant:
        """The variant behind `kernel`, not yet bound: nothing is compiled.  Not the table's: that
        takes a shape."""
        op = get_op(op_name)
        if rule := self._rule(op_name, format):
            if self._by_star(op_name, format):
                rule = _at_level(op_name, rule, format)
            return self._forced(op_name, rule, format)
        for name in self._order:
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
            raise _no_variant(op_name, name, self._by_star(op_name, format))
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


def _at_level(op_name: str, name: str, format: str) -> str:
    """The variant that a rule for every op gives one op: where a partial level has no kernel for
    it, that of the next lower level, as with PYROCLAST_MAX_ISA."""
    level = name.removeprefix("cpp-")
    if level not in PARTIAL_LEVELS:
        return name
    if why_not := cpp_kernels(level)[1]:
        raise KernelError(f"*={name} cannot run here: {why_not}")
    for lower in CPP_LEVELS[CPP_LEVELS.index(level) :]:
        variant = get_op(op_name).variants.get(f"cpp-{lower}")
        if variant and not variant.unavailable and format in variant.formats:
            return variant.name
    return name


def _known_variants(ops: Iterable[str]) -> str:
    names = {name: None for op in ops for name in all_variants(op)}
    return f"there are {', '.join(names)}"


def _no_variant(op: str, name: str, by_star: bool = False) -> KernelError:
    """The error for a name that no variant of the op has; a variant of one's own may have been
    meant by its name without the technology, as `kernels new` takes it.  by_star: a rule for every
    op asked for it."""
    meant = [each for each in all_variants(op) if each.partition("-")[2] == name]
    hint = f"; did you mean {meant[0]}?" if len(meant) == 1 else ""
    if by_star:
        have = ", ".join(each for each in OP_NAMES if name in all_variants(each))
        hint = f" for *={name}, which is in {have}: name these, or give {op} a rule of its own"
    return KernelError(f"{op} has no variant {name!r}{hint}; {_known_variants((op,))}")
