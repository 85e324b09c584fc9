"""Rules, precedence, and errors that say what there is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pyroclast_kernels import features
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.listing import report
from pyroclast_kernels.registry import OP_NAMES, get_op
from pyroclast_kernels.selection import PREFERENCE, Selection, all_variants


def test_a_rule_for_one_format_beats_one_for_the_op_and_that_beats_the_star() -> None:
    variants = all_variants("matmul").values()
    names = [v.name for v in variants if not v.unavailable and "q8_0" in v.formats]
    best = Selection("").kernel("matmul", "q8_0").variant
    assert best == min(names, key=PREFERENCE.index)
    rules = Selection(f"*=numpy,matmul={best},matmul.q4_0=numpy")
    assert rules.kernel("norm").variant == "numpy"
    assert rules.kernel("matmul", "q8_0").variant == best
    assert rules.kernel("matmul", "q4_0").variant == "numpy"


def test_the_environment_gives_the_rules_and_an_argument_overrides_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYROCLAST_KERNELS", "norm=numpy")
    assert Selection().kernel("norm").variant == "numpy"
    assert Selection("").kernel("norm").variant == Selection("matmul=numpy").kernel("norm").variant


def test_resolved_records_what_was_bound() -> None:
    selection = Selection("norm=numpy")
    selection.kernel("norm")
    assert selection.resolved == {"norm.f32": "numpy"}


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("conv=numpy", ["conv", "matmul", "attention"]),
        ("matmul=fast", ["fast", "numpy"]),
        ("*=fast", ["fast", "numpy"]),
        ("matmul.q9_9=numpy", ["q9_9", "q8_0", "q4_1"]),
        ("matmul", ["op[.format]=variant", "matmul"]),
        ("=numpy", ["op[.format]=variant"]),
    ],
)
def test_a_bad_rule_says_what_there_is(rules: str, words: list[str]) -> None:
    with pytest.raises(KernelError) as error:
        Selection(rules)
    for word in words:
        assert word in str(error.value)


def test_a_rule_for_every_op_says_which_ops_have_its_variant() -> None:
    with pytest.raises(KernelError) as error:
        Selection("*=triton").variant("pack", "q8_0")
    for word in ("pack has no variant 'triton'", "*=triton", "matmul", "a rule of its own"):
        assert word in str(error.value)


def test_an_unknown_format_is_an_error_of_the_op() -> None:
    with pytest.raises(KernelError, match="q8_0"):
        Selection("").kernel("matmul", "q7_7")


def test_a_capped_instruction_set_is_unavailable_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYROCLAST_MAX_ISA", "baseline")
    assert "PYROCLAST_MAX_ISA" in features.why_not("avx512vnni")
    assert "PYROCLAST_MAX_ISA" in features.why_not("avx2")
    monkeypatch.setenv("PYROCLAST_MAX_ISA", "sse9")
    with pytest.raises(KernelError, match="baseline"):
        features.max_isa()


def test_a_cpu_without_the_flags_lacks_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "cpu_flags", lambda: frozenset({"sse4_2", "avx2"}))
    monkeypatch.setattr(features.platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("PYROCLAST_MAX_ISA", raising=False)
    assert "avx512_vnni" in features.why_not("avx512vnni")
    assert "fma" in features.why_not("avx2")


def test_an_aarch64_cpu_has_the_levels_that_its_flags_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arm = features._AARCH64
    monkeypatch.setattr(features, "LEVEL_FLAGS", arm)
    monkeypatch.setattr(features, "_IS_AARCH64", True)
    monkeypatch.setattr(features.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(features, "cpu_flags", lambda: frozenset(arm["dotprod"]))
    monkeypatch.delenv("PYROCLAST_MAX_ISA", raising=False)
    assert features.why_not("i8mm") == "this CPU lacks i8mm"
    assert features.why_not("dotprod") == features.why_not("baseline") == ""
    assert features.why_not("avx2") == "needs an x86-64 CPU, this is aarch64"
    assert {features.bit_group(level) for level in arm} == {"fma"}
    monkeypatch.setenv("PYROCLAST_MAX_ISA", "baseline")
    assert "PYROCLAST_MAX_ISA" in features.why_not("dotprod")


def test_flags_of_aarch64_are_bits_of_two_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {16: 1 << 20 | 1 << 8, 26: 1 << 13}
    libc = SimpleNamespace(getauxval=lambda which: words[which])
    monkeypatch.setattr(features.ctypes, "CDLL", lambda _: libc)
    assert features._arm_flags() == {"asimddp", "atomics", "i8mm"}
    monkeypatch.setattr(features.ctypes, "CDLL", lambda _: object())
    assert features._arm_flags() == frozenset()


def test_report_chooses_one_variant_for_every_op_and_format() -> None:
    rows = report("")
    for op in OP_NAMES:
        for format in get_op(op).formats:
            mine = [r for r in rows if (r["op"], r["format"]) == (op, format)]
            assert [r["status"] for r in mine].count("chosen") == 1
            assert all(r["reason"] for r in mine if r["status"] == "unavailable")


def test_the_dot_product_of_pairs_is_chosen_only_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without = replace(get_op("matmul").variants["cpp-amxbf16"], unavailable="not in this test")
    monkeypatch.setitem(get_op("matmul").variants, "cpp-amxbf16", without)
    by_rule = Selection("matmul.bf16=cpp-avx512bf16")
    variant = all_variants("matmul")["cpp-avx512bf16"]
    if not variant.unavailable:
        for vendor, chosen in [("AuthenticAMD", True), ("GenuineIntel", False)]:
            monkeypatch.setattr(features, "_cpuinfo", {"vendor_id": vendor}.get)
            found = Selection("").variant("matmul", "bf16").name
            assert (found == variant.name) is chosen, found
            assert by_rule.variant("matmul", "bf16").name == variant.name
    else:
        assert Selection("").variant("matmul", "bf16").name != variant.name
        with pytest.raises(KernelError, match="cannot run here"):
            by_rule.variant("matmul", "bf16")


@pytest.mark.parametrize(
    ("flags", "answer", "reason"),
    [
        ("amx_tile amx_bf16", 0, ""),
        ("amx_tile amx_bf16", -1, "the system does not lend AMX's registers: "),
        ("amx_tile", 0, "this CPU lacks amx_bf16"),
    ],
)
def test_matrix_registers_need_the_cpu_and_the_system(
    flags: str, answer: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def syscall(*numbers: int) -> int:
        asked.append(numbers)
        return answer

    library = SimpleNamespace(syscall=syscall)
    monkeypatch.setattr(features.ctypes, "CDLL", lambda *_, **__: library)
    monkeypatch.setattr(features, "cpu_flags", lambda: frozenset(flags.split()))
    assert features.why_not_beside_level.__wrapped__("amxbf16").startswith(reason)
    assert bool(features.why_not_beside_level.__wrapped__("amxbf16")) is bool(reason)
    assert set(asked) == ({(158, 0x1023, 18)} if "amx_bf16" in flags else set())
    assert features.why_not_beside_level.__wrapped__("avx512bf16") == ""


@pytest.mark.native
def test_matrix_registers_come_before_the_dot_product_of_pairs() -> None:
    """Where the CPU has them, whoever made it."""
    variant = get_op("matmul").variants["cpp-amxbf16"]
    chosen = Selection("frozen").variant("matmul", "bf16").name
    assert (chosen == variant.name) is (not variant.unavailable)


def test_a_variant_cannot_be_registered_twice() -> None:
    with pytest.raises(KernelError, match="already"):
        get_op("norm").variant("numpy")(lambda _: 1)
