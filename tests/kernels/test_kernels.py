"""Every variant of every op against the NumPy reference, over the op's own case list."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest

from kept_cases import expected_of, made
from pyroclast_kernels import features
from pyroclast_kernels.cases import Case, mismatches, op_cases
from pyroclast_kernels.program import Program, Recorder, make_executor
from pyroclast_kernels.registry import OP_NAMES, PARTIAL_LEVELS, get_op
from pyroclast_kernels.selection import Selection, all_variants
from pyroclast_kernels.weights import BLOCK_FORMATS

pytestmark = pytest.mark.native
OPS = OP_NAMES
PAIRS = [
    pytest.param(op, name, id=f"{op}-{name}")
    for op in OPS
    for name, variant in all_variants(op).items()
    if name != "numpy" and variant.launch is None  # tests/gpu has those
]


@cache
def executor(n_threads: int) -> Any:
    return make_executor(n_threads)


def variant_cases(op: str, name: str) -> list[Case]:
    """The op's cases in the formats that the variant takes; skips if it cannot run here."""
    variant = all_variants(op)[name]
    if variant.unavailable:
        pytest.skip(f"{op}={name}: {variant.unavailable}")
    return [case for case in op_cases(op) if case.format in variant.formats]


def run(case: Case, arguments: dict[str, Any], name: str, n_threads: int) -> str:
    """Runs the case under the forced variant; the variant that really ran."""
    recorder = Recorder(Selection(f"{case.op}.{case.format}={name}"))
    recorder.call(case.op, case.format, **arguments)
    Program(recorder.calls, executor(n_threads) if n_threads else None).run()
    return recorder.calls[0].kernel.variant


@pytest.mark.parametrize(("op", "name"), PAIRS)
def test_matches_the_reference(op: str, name: str) -> None:
    cases = variant_cases(op, name)
    assert cases
    for case in cases:
        before, after = expected_of(case)
        got = made(case)
        assert run(case, got, name, 2) == name
        rounds = all_variants(op)[name].rounds
        assert not mismatches(case, before, after, got, rounds), f"{case}: {case.reason}"


@pytest.mark.parametrize(("op", "name"), PAIRS)
def test_without_tokens_nothing_is_written(op: str, name: str) -> None:
    """A chunk of a prompt may want no logits.  (attention takes sequences, which have some.)"""
    cases = {case.format: case for case in variant_cases(op, name)}
    for case in cases.values():
        got = made(case)
        if "n_tokens" not in got or "n_seqs" in got:
            continue
        before = [_bits(got[output]) for output in case.outputs]
        got["n_tokens"][0] = 0
        run(case, got, name, 2)
        assert [_bits(got[output]) for output in case.outputs] == before, str(case)


@pytest.mark.parametrize(("op", "name"), PAIRS)
def test_bits_do_not_depend_on_the_number_of_parts(op: str, name: str) -> None:
    for case in variant_cases(op, name):
        results = []
        for n_threads in (0, 1, 3):  # one part, one part under the executor, six parts
            got = made(case)
            run(case, got, name, n_threads)
            results.append([_bits(got[output]) for output in case.outputs])
        assert results[0] == results[1] == results[2], str(case)


def _bits(array: Any) -> bytes | None:
    if array is None:
        return None
    return bytes(array.data.tobytes()) if hasattr(array, "n_bytes") else array.tobytes()


@pytest.mark.parametrize("op", OPS)
def test_variants_of_one_bit_group_give_identical_bits(op: str) -> None:
    groups: dict[str, list[str]] = {}
    for variant in all_variants(op).values():
        if not variant.unavailable:
            groups.setdefault(variant.bit_group, []).append(variant.name)
    for names in groups.values():
        for case in op_cases(op) if len(names) > 1 else []:
            results = set()
            for name in names:
                if case.format in all_variants(op)[name].formats:
                    got = made(case)
                    run(case, got, name, 2)
                    results.add(tuple(_bits(got[output]) for output in case.outputs))
            assert len(results) <= 1, f"{case}: {names} differ"


def level_formats(level: str, op: str) -> tuple[str, ...]:
    """AVX-VNNI multiplies bytes: the plain formats do not gain by it."""
    return BLOCK_FORMATS if level == "avxvnni" else get_op(op).formats


def test_cpp_variants_are_there_for_every_level_this_cpu_has() -> None:
    """A level that silently failed to build or register would leave the tests above green."""
    for level in features.LEVEL_FLAGS:
        if features.why_not(level):
            continue
        for op in PARTIAL_LEVELS.get(level, OPS):
            variant = all_variants(op)[f"cpp-{level}"]
            if variant.unavailable.startswith("not built"):
                pytest.skip("installed without a compiler")
            assert not variant.unavailable
            formats = {case.format for case in op_cases(op)}
            assert set(variant.formats) == formats & set(level_formats(level, op))


@pytest.mark.parametrize("op", OPS)
def test_the_check_catches_a_wrong_result(op: str) -> None:
    """The comparison itself: an output changed in one place, by more than its bound, is named;
    of a record, in each of its fields."""
    for case in op_cases(op):
        before, after = expected_of(case)
        name = next(n for n in case.outputs if after[n] is not None)
        for field in _fields(after[name]):
            got = deepcopy(after)
            target = got[name].data if hasattr(got[name], "n_bytes") else got[name]
            flat = target.reshape(-1)
            flat = flat[field] if field else flat
            if not np.isfinite(flat[0]):
                flat[0] = 1.0
            elif flat.dtype.kind in "iu":
                flat[0] += 100 if field == "n_kept" else 1
            else:
                flat[0] += flat.dtype.type(3e4)
            found = mismatches(case, before, after, got)
            assert found and found[0].output.startswith(name), f"{case} {field}"


def _fields(output: Any) -> tuple[str, ...]:
    """The fields of a record; of a quantized block the scale alone, which all others hang on."""
    names = getattr(getattr(output, "dtype", None), "names", None)
    return ("scale",) if names and "scale" in names else names or ("",)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [p.values[1] for p in PAIRS if p.values[0] == "norm"])
def test_a_non_finite_activation_poisons_its_block(name: str, bad: float) -> None:
    """Rounding to int8 would turn a NaN into a number and hide it from everybody downstream."""
    case = next(c for c in op_cases("norm") if c.name == "1x576-q8")
    variant_cases("norm", name)
    arguments = case.make()
    arguments["weight"][100] = bad
    run(case, arguments, name, 1)
    scales = arguments["out_q8"]["scale"][0]
    assert np.isnan(scales[3]) or np.isinf(scales[3])
    assert np.isfinite(np.delete(scales, 3)).all()
