"""Measures variants for the tuner on a real model: the decode step for few tokens, the prefill
step for many.

A call belongs to the token class of its own number of tokens.  The output matrix of a prefill step
sees one row, so it is measured in the decode step.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pyroclast.lab.check.check import check_case
from pyroclast.lab.tune.choice import Block, CallClass, Measured
from pyroclast.lab.tune.search import Ratio, Verdict
from pyroclast.lab.tune.steps import Array, ModelSteps, bind, busy_ns, call_class_of, recorded_runs
from pyroclast_kernels.cases import op_cases
from pyroclast_kernels.program import OpCall, Program
from pyroclast_kernels.selection import Kernel, all_variants
from pyroclast_kernels.tables import TOKEN_CLASSES, Entry, TokenClass, tokens_of

_ROUNDS = 4  # runs of each program in a block


class ModelBench:
    """Measures on `steps`.  on_done(n) hears how many of n_work(n_blocks) pieces are done; `notes`
    say which variants were left out, and why."""

    def __init__(
        self, steps: ModelSteps, any_bits: bool, on_done: Callable[[int], None] = lambda _: None
    ) -> None:
        self._steps, self._on_done, self._n_done = steps, on_done, 0
        self.notes: list[str] = []
        self._kernels: dict[tuple[str, str, str], Kernel] = {}
        self._call_classes = self._find_call_classes(any_bits)
        names = {n: None for s in self._call_classes.values() for n in s.groups if n != s.default}
        self.challengers = tuple(names)

    @property
    def call_classes(self) -> Sequence[CallClass]:
        return tuple(self._call_classes.values())

    @staticmethod
    def n_work(n_blocks: int) -> int:
        """The number that on_done counts to: blocks of both steps, measured and verified."""
        return 4 * n_blocks

    def measure(self, n_blocks: int) -> Measured:
        """Blocks of the decode step and of the prefill step."""
        found: dict[TokenClass, list[Block]] = {}
        for tokens in TOKEN_CLASSES:
            self._go_to(tokens)
            programs = [self._program(""), *map(self._program, self.challengers), self._program("")]
            self._check_bits(programs)
            recorded_runs(programs, 1)  # pages, caches, and the clock of the CPU
            found[tokens] = []
            for _ in range(n_blocks):
                runs = recorded_runs(programs, _ROUNDS)
                found[tokens].append(self._block(tokens, [busy_ns(each) for each in runs]))
                self._tick()
        return found

    def verify(self, entries: Sequence[Entry], n_blocks: int) -> list[Verdict]:
        """Compares whole steps under the entries with the same steps under the defaults."""
        chosen = {entry.key: entry.variant for entry in entries}
        found: list[Verdict] = []
        for tokens in TOKEN_CLASSES:
            self._go_to(tokens)
            tuned = self._steps.rebound(lambda call: self._under(call, chosen))
            programs = [self._program(""), tuned, self._program("")]
            busy, wall = list[Sequence[float]](), list[Sequence[float]]()
            for _ in range(n_blocks):
                runs = recorded_runs(programs, _ROUNDS)
                busy.append([float(busy_ns(each).sum()) for each in runs])
                wall.append([float(min(run.wall_ns for run in each)) for each in runs])
                self._tick()
            found.append(Verdict(tokens, _ratio(busy), _ratio(wall)))
        return found

    # ---- inside ----------------------------------------------------------------------------

    def _find_call_classes(self, any_bits: bool) -> dict[tuple[str, str, str], CallClass]:
        found: dict[tuple[str, str, str], CallClass] = {}
        usable: dict[tuple[str, str], dict[str, str]] = {}
        for call in self._steps.program.calls:
            key = op, format, _ = call_class_of(call)
            default = call.kernel
            if default.function is not None or key in found:
                continue
            if (op, format) not in usable:
                usable[op, format] = self._usable(default, any_bits)
            found[key] = CallClass(*key, default=default.variant, groups=usable[op, format])
        return found

    def _usable(self, default: Kernel, any_bits: bool) -> dict[str, str]:
        """variant -> bit group: the default first, then the variants that may replace it."""
        op, format, variants = default.op, default.format, all_variants(default.op)
        home = variants[default.variant].bit_group
        found = {default.variant: home}
        for name, variant in variants.items():
            if name == default.variant or not (any_bits or variant.bit_group == home):
                continue
            kernel, reason = bind(op, format, name)
            if reason and not variant.unavailable and format in variant.formats:
                self.notes.append(f"{op}.{format}={name} cannot run: {reason}")
            if kernel is None or kernel.function is not None:
                continue  # a Python function would cut the step in two
            failures = [f for c in op_cases(op) if c.format == format for f in check_case(c, name)]
            if failures:
                self.notes.append(f"{op}.{format}={name} is wrong: {failures[0]}")
                continue
            self._kernels[op, format, name] = kernel
            found[name] = variant.bit_group
        return found

    def _program(self, name: str) -> Program:
        """The step with variant `name` in every call that it can run; "": the defaults."""

        def choose(call: OpCall) -> Kernel | None:
            return self._kernels.get((call.kernel.op, call.kernel.format, name))

        return self._steps.rebound(choose)

    def _under(self, call: OpCall, chosen: dict[tuple[str, str, str, str], str]) -> Kernel | None:
        name = chosen.get((*call_class_of(call), tokens_of(call.n_tokens)), "")
        return self._kernels.get((call.kernel.op, call.kernel.format, name))

    def _go_to(self, tokens: TokenClass) -> None:
        if tokens == "few":
            self._steps.decode()
        else:
            self._steps.prefill()

    def _check_bits(self, programs: Sequence[Program]) -> None:
        """Leaves out a challenger that promises the default's bits and gives others."""
        programs[0].run()
        wanted = self._steps.logits()
        for name in self.challengers:
            mates = {
                key: self._kernels[key[0], key[1], name]
                for key, call_class in self._call_classes.items()
                if call_class.groups.get(name) == call_class.groups[call_class.default]
            }
            self._steps.rebound(lambda call, mates=mates: mates.get(call_class_of(call))).run()
            if self._steps.logits() == wanted:
                continue
            self.notes.append(f"{name} gives other bits than its bit group promises")
            for key in mates:
                call_class = self._call_classes[key]
                groups = {n: group for n, group in call_class.groups.items() if n != name}
                self._call_classes[key] = replace(call_class, groups=groups)

    def _block(self, tokens: TokenClass, times: Sequence[Array]) -> Block:
        default, *others, again = (self._by_call_class(tokens, each) for each in times)
        named = dict(zip(self.challengers, others, strict=True))
        return Block(default, again, named, float(np.sum(times[0])))

    def _by_call_class(self, tokens: TokenClass, times: Array) -> dict[CallClass, float]:
        found: dict[CallClass, float] = {}
        for call, ns in zip(self._steps.program.calls, times.tolist(), strict=True):
            call_class = self._call_classes.get(call_class_of(call))
            if call_class is not None and tokens_of(call.n_tokens) == tokens:
                found[call_class] = found.get(call_class, 0.0) + ns
        return found

    def _tick(self) -> None:
        self._n_done += 1
        self._on_done(self._n_done)


def _ratio(blocks: Sequence[Sequence[float]]) -> Ratio:
    """The second time of each block over the mean of its first and third, which time one thing."""
    ratios = sorted(2 * middle / (first + last) for first, middle, last in blocks)
    noise = statistics.median(abs(last / first - 1) for first, _, last in blocks)
    return Ratio(statistics.median(ratios), ratios[len(ratios) // 3], noise)
