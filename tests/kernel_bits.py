"""Bits that kernels give on one kind of CPU, compared on another: what one bit group promises.

    python tests/kernel_bits.py --out bits cpp-avx2   # on x86-64, whose kernels are tested there
    python tests/kernel_bits.py --like bits           # on aarch64: all levels of C++

The file holds the cases of every op, their arguments included, since NumPy may compute other inputs
on another CPU, and a hash of the outputs.  All NaNs count as one: CPUs differ in the sign of those
they make.  One side runs each case in one part, the other in several.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pyroclast_kernels
import quick
from pyroclast_kernels.cases import Case, op_cases
from pyroclast_kernels.program import Program, Recorder, make_executor
from pyroclast_kernels.registry import OP_NAMES
from pyroclast_kernels.selection import Selection

Arguments = dict[str, Any]
SCRATCH = "scratch"  # an argument whose content means nothing
LARGEST = 2 << 20  # bytes of a case; an emulator takes too long for larger ones


def content(array: NDArray[Any]) -> Iterator[bytes]:
    """An array's bytes, field after field, with one NaN for all."""
    if array.dtype.names:
        for name in array.dtype.names:
            yield from content(array[name])
    elif array.dtype.kind == "f":
        yield np.where(np.isnan(array), array.dtype.type(np.nan), array).tobytes()
    else:
        yield array.tobytes()


def digest(arguments: Arguments, names: tuple[str, ...]) -> str:
    """12 hexadecimal digits that stand for some of a case's arguments."""
    found = hashlib.sha256()
    for name in names:
        given = arguments[name]
        array = given.data if hasattr(given, "n_bytes") else given  # packed weights
        for part in () if array is None else content(array):
            found.update(part)
    return found.hexdigest()[:12]


def run(op: str, format: str, variant: str, arguments: Arguments, executor: Any) -> None:
    """One call of a variant on an executor, or without one in a single part."""
    recorder = Recorder(Selection(f"{op}.{format}={variant}"))
    recorder.call(op, format, **arguments)
    Program(recorder.calls, executor).run()


def packed(case: Case) -> tuple[bytes, Any]:
    """A case's arguments as bytes without scratch memory; shape and dtype of that, or None."""
    arguments = case.make()
    scratch = arguments.get(SCRATCH)
    hollow = {SCRATCH: None} if SCRATCH in arguments else {}
    shape = None if scratch is None else (scratch.shape, scratch.dtype.str)
    return pickle.dumps(arguments | hollow), shape


def chosen(at_most: int | None) -> Iterator[Case]:
    """The cases that an emulator has time for: of each op and format all, or so many (2 or more),
    evenly spread; RuntimeError where there is none."""
    for op in OP_NAMES:
        groups: dict[str, list[Case]] = {case.format: [] for case in op_cases(op)}
        for case in op_cases(op):
            if len(packed(case)[0]) <= LARGEST:
                groups[case.format].append(case)
        for format, group in groups.items():
            if not group:
                raise RuntimeError(f"{op}.{format} has no case of up to {LARGEST} bytes")
            yield from group if at_most is None else quick.sample(group, at_most)


def write(path: Path, variant: str, at_most: int | None) -> None:
    """The chosen cases, and the bits that a variant gives in a single part."""
    with path.open("wb") as file:
        for case in chosen(at_most):
            before, scratch = packed(case)
            arguments = case.make()
            run(case.op, case.format, variant, arguments, None)
            record = (case.op, case.format, str(case), before, scratch, case.outputs)
            pickle.dump((*record, digest(arguments, case.outputs)), file)


def compare(path: Path, variants: list[str]) -> list[str]:
    """The cases in which a variant gives other bits; several parts on two threads."""
    executor, wrong, n_cases = make_executor(2), [], 0
    with path.open("rb") as file:
        while file.peek(1):
            op, format, name, before, scratch, outputs, wanted = pickle.load(file)
            for variant in variants:
                arguments = pickle.loads(before)
                if scratch is not None:
                    arguments[SCRATCH] = np.zeros(*scratch)
                run(op, format, variant, arguments, executor)
                n_cases += 1
                if digest(arguments, outputs) != wanted:
                    wrong.append(f"{variant}: {name} has other bits")
    alike = f"{n_cases - len(wrong)} of {n_cases} cases give the same bits"
    sys.stdout.write(f"{', '.join(variants)}: {alike}\n")
    return wrong if n_cases else ["no case was compared"]


def main() -> int:
    """0 if all bits are those of the file, or if they were written."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="write the bits of one variant into this file")
    where.add_argument("--like", type=Path, help="compare with the bits in this file")
    # What was built, not what opens: a level that is not detected has to fail.
    built = Path(pyroclast_kernels.__file__).with_name("_build_info.json").read_text("utf-8")
    levels = [f"cpp-{level}" for level in json.loads(built)["levels"]]
    parser.add_argument(
        "--at-most", type=int, help="with --out: of each op and format so many cases"
    )
    parser.add_argument("variants", nargs="*", default=levels, help="for example cpp-avx2")
    options = parser.parse_args()
    if options.out:
        (variant,) = options.variants
        write(options.out, variant, options.at_most)
        return 0
    wrong = compare(options.like, options.variants)
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    return 1 if wrong or not options.variants else 0


if __name__ == "__main__":
    sys.exit(main())
