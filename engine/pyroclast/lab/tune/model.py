"""The tuner's bench on a real model: its decode step for few tokens, its prefill step for many.

A call counts in the token class of its own number of tokens: the output matrix of a prefill step,
which sees one row, is not measured there but in the decode step.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pyroclast.lab.check.check import check_case
from pyroclast.lab.tune.search import Block, Measured, Ratio, Subject, Verdict
from pyroclast.lab.tune.steps import Array, Steps, bind, busy_ns, subject_of, traced
from pyroclast_kernels.cases import op_cases
from pyroclast_kernels.program import Call, Program
from pyroclast_kernels.selection import Kernel, all_variants
from pyroclast_kernels.tables import TOKEN_CLASSES, Entry, TokenClass, tokens_of

_ROUNDS = 4  # runs of each program in a block


class ModelBench:
    """Measures on `steps`.  on_done is told how many pieces of work out of n_work(n_blocks) are
    over.  `notes` say which variants were left out, and why."""

    def __init__(
        self, steps: Steps, any_bits: bool, on_done: Callable[[int], None] = lambda _: None
    ) -> None:
        self._steps, self._on_done, self._n_done = steps, on_done, 0
        self.notes: list[str] = []
        self._kernels: dict[tuple[str, str, str], Kernel] = {}
        self._subjects = self._find_subjects(any_bits)
        names = {n: None for s in self._subjects.values() for n in s.groups if n != s.default}
        self.challengers = tuple(names)

    @property
    def subjects(self) -> Sequence[Subject]:
        return tuple(self._subjects.values())

    @staticmethod
    def n_work(n_blocks: int) -> int:
        """What on_done counts up to: blocks of both classes, measured and verified."""
        return 4 * n_blocks

    def measure(self, n_blocks: int) -> Measured:
        """Blocks of the decode step and of the prefill step."""
        found: dict[TokenClass, list[Block]] = {}
        for tokens in TOKEN_CLASSES:
            self._go_to(tokens)
            programs = [self._program(""), *map(self._program, self.challengers), self._program("")]
            self._check_bits(programs)
            traced(programs, 1)  # pages, caches, and the clock of the CPU
            found[tokens] = []
            for _ in range(n_blocks):
                runs = traced(programs, _ROUNDS)
                found[tokens].append(self._block(tokens, [busy_ns(each) for each in runs]))
                self._tick()
        return found

    def verify(self, entries: Sequence[Entry], n_blocks: int) -> list[Verdict]:
        """Whole steps under the entries and under the defaults."""
        chosen = {entry.key: entry.variant for entry in entries}
        found: list[Verdict] = []
        for tokens in TOKEN_CLASSES:
            self._go_to(tokens)
            tuned = self._steps.rebound(lambda call: self._under(call, chosen))
            programs = [self._program(""), tuned, self._program("")]
            busy, wall = list[Sequence[float]](), list[Sequence[float]]()
            for _ in range(n_blocks):
                runs = traced(programs, _ROUNDS)
                busy.append([float(busy_ns(each).sum()) for each in runs])
                wall.append([float(min(run.wall_ns for run in each)) for each in runs])
                self._tick()
            found.append(Verdict(tokens, _ratio(busy), _ratio(wall)))
        return found

    # ---- inside ----------------------------------------------------------------------------

    def _find_subjects(self, any_bits: bool) -> dict[tuple[str, str, str], Subject]:
        found: dict[tuple[str, str, str], Subject] = {}
        usable: dict[tuple[str, str], dict[str, str]] = {}
        for call in self._steps.program.calls:
            key = op, format, _ = subject_of(call)
            default = call.kernel
            if default.function is not None or key in found:
                continue
            if (op, format) not in usable:
                usable[op, format] = self._usable(default, any_bits)
            found[key] = Subject(*key, default=default.variant, groups=usable[op, format])
        return found

    def _usable(self, default: Kernel, any_bits: bool) -> dict[str, str]:
        """variant -> bit group of those that may stand in for the default: the default first."""
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
        """The step with every call under variant `name` that can be; "": under the defaults."""

        def choose(call: Call) -> Kernel | None:
            return self._kernels.get((call.kernel.op, call.kernel.format, name))

        return self._steps.rebound(choose)

    def _under(self, call: Call, chosen: dict[tuple[str, str, str, str], str]) -> Kernel | None:
        name = chosen.get((*subject_of(call), tokens_of(call.n_tokens)), "")
        return self._kernels.get((call.kernel.op, call.kernel.format, name))

    def _go_to(self, tokens: TokenClass) -> None:
        if tokens == "few":
            self._steps.decode()
        else:
            self._steps.prefill()

    def _check_bits(self, programs: Sequence[Program]) -> None:
        """Leaves out a challenger that claims the bits of the default and gives others."""
        programs[0].run()
        wanted = self._steps.logits()
        for name in self.challengers:
            mates = {
                key: self._kernels[key[0], key[1], name]
                for key, subject in self._subjects.items()
                if subject.groups.get(name) == subject.groups[subject.default]
            }
            self._steps.rebound(lambda call, mates=mates: mates.get(subject_of(call))).run()
            if self._steps.logits() == wanted:
                continue
            self.notes.append(f"{name} gives other bits than its bit group promises")
            for key in mates:
                subject = self._subjects[key]
                groups = {n: group for n, group in subject.groups.items() if n != name}
                self._subjects[key] = replace(subject, groups=groups)

    def _block(self, tokens: TokenClass, times: Sequence[Array]) -> Block:
        default, *others, again = (self._by_subject(tokens, each) for each in times)
        named = dict(zip(self.challengers, others, strict=True))
        return Block(default, again, named, float(np.sum(times[0])))

    def _by_subject(self, tokens: TokenClass, times: Array) -> dict[Subject, float]:
        found: dict[Subject, float] = {}
        for call, ns in zip(self._steps.program.calls, times.tolist(), strict=True):
            subject = self._subjects.get(subject_of(call))
            if subject is not None and tokens_of(call.n_tokens) == tokens:
                found[subject] = found.get(subject, 0.0) + ns
        return found

    def _tick(self) -> None:
        self._n_done += 1
        self._on_done(self._n_done)


def _ratio(blocks: Sequence[Sequence[float]]) -> Ratio:
    """Of each block's second time to the mean of its first and third, which are of one thing."""
    ratios = sorted(2 * middle / (first + last) for first, middle, last in blocks)
    noise = statistics.median(abs(last / first - 1) for first, _, last in blocks)
    return Ratio(statistics.median(ratios), ratios[len(ratios) // 3], noise)
