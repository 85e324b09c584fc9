"""The tuner: choices under noise with made-up times, and the whole of it on a tiny model."""

from __future__ import annotations

import ctypes
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from pyroclast.cli import main as cli
from pyroclast.lab.tune import search as lab
from pyroclast.lab.tune.choice import Block, CallClass, Measured
from pyroclast.lab.tune.model import ModelBench
from pyroclast.lab.tune.search import Ratio, Verdict, tune
from pyroclast.lab.tune.steps import ModelSteps, call_class_of
from pyroclast.llm import LLM
from pyroclast.sampling.params import SamplingParams
from pyroclast_kernels import tables
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.program import make_executor
from pyroclast_kernels.registry import Variant, get_op
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.tables import TOKEN_CLASSES, Entry, TokenClass, TunedTable

HOME, OTHER = "fma", "numba"
GROUPS = {"default": HOME, "twin": HOME, "foreign": OTHER, "foreign2": OTHER}

# (few, many) -> variant -> time over the default's.
Truth = Mapping[TokenClass, Mapping[str, float]]


class FakeBench:
    """Times as a busy machine gives them: every block is up to twice as slow as the fastest, each
    time has its own noise, and one in twenty is half as long again."""

    def __init__(
        self,
        truths: Mapping[str, Truth],
        *,
        noise: float = 0.01,
        seed: int = 0,
        share: float = 0.1,
        groups: Mapping[str, str] = GROUPS,
        verdict: float = 0.98,
    ) -> None:
        self.truths, self.noise, self.share = truths, noise, share
        self.rng = np.random.default_rng(seed)
        self.call_classes: Sequence[CallClass] = [
            CallClass("matmul", "q8_0", shape, "default", groups) for shape in truths
        ]
        self.verdict, self.verified = verdict, 0

    def _time(self, ratio: float) -> float:
        outlier = 1.5 if self.rng.random() < 0.05 else 1.0
        return float(ratio * outlier * np.exp(self.noise * self.rng.standard_normal()))

    def _times(self, tokens: TokenClass, name: str, speed: float) -> dict[CallClass, float]:
        truth = {
            call_class: self.truths[call_class.shape][tokens] for call_class in self.call_classes
        }
        return {s: speed * self._time(each.get(name, 1.0)) for s, each in truth.items()}

    def measure(self, n_blocks: int) -> Measured:
        found: dict[TokenClass, list[Block]] = {}
        for tokens in TOKEN_CLASSES:
            found[tokens] = []
            for _ in range(n_blocks):
                speed = 1000 * (1 + self.rng.random())
                others = {n: self._times(tokens, n, speed) for n in GROUPS if n != "default"}
                pair = [self._times(tokens, "default", speed) for _ in range(2)]
                found[tokens].append(Block(*pair, others, speed / self.share))
        return found

    def verify(self, entries: Sequence[Entry], n_blocks: int) -> list[Verdict]:
        self.verified += 1
        assert entries and n_blocks
        ratio = Ratio(self.verdict, self.verdict, 0.001)
        return [Verdict(tokens, ratio, ratio) for tokens in TOKEN_CLASSES]


def both(**ratios: float) -> Truth:
    return {"few": ratios, "many": ratios}


def chosen(bench: FakeBench, present: TunedTable | None = None, **options: Any) -> dict[str, str]:
    """ "shape tokens" -> variant."""
    result = tune(bench, present, **options)
    return {f"{e.shape} {e.tokens}": e.variant for e in result.entries}


def table_of(choices: Mapping[str, str], any_bits: bool = False) -> TunedTable:
    entries = []
    for key, variant in choices.items():
        shape, tokens = key.split()
        entries.append(Entry("matmul", "q8_0", shape, tokens, variant, "default", 0.9))  # type: ignore[arg-type]
    return TunedTable("cpu", "build", tuple(entries), any_bits)


# ---- stability and harm ------------------------------------------------------------------------

MANY = {f"s{i}": both(twin=ratio) for i, ratio in enumerate((1.3, 1.05, 1.0, 0.99, 0.93, 0.9, 0.6))}


@pytest.mark.parametrize("noise", [0.002, 0.01])
def test_the_table_is_the_same_in_nine_of_ten_runs_on_a_noisy_machine(noise: float) -> None:
    names = Counter(
        table_of(chosen(FakeBench(MANY, noise=noise, seed=seed))).name for seed in range(40)
    )
    [(name, count)] = names.most_common(1)
    assert count >= 36
    wanted = {f"s{i} {t}": "twin" if i >= 4 else "default" for i in range(7) for t in TOKEN_CLASSES}
    assert name == table_of(wanted).name


@pytest.mark.parametrize("seed", range(20))
def test_a_loser_is_never_chosen_however_noisy(seed: int) -> None:
    truths = {f"s{i}": both(twin=1.0 + i / 50) for i in range(10)}
    for noise in (0.01, 0.05, 0.2):
        assert set(chosen(FakeBench(truths, noise=noise, seed=seed)).values()) == {"default"}


def test_a_gain_that_drowns_in_noise_is_not_believed() -> None:
    truths = {f"s{i}": both(twin=0.93) for i in range(20)}
    assert set(chosen(FakeBench(truths, noise=0.2)).values()) == {"default"}
    assert set(chosen(FakeBench(truths, noise=0.002)).values()) == {"twin"}


def test_a_small_gain_does_not_enter_but_stays_where_it_is() -> None:
    truths = {f"s{i}": both(twin=0.98) for i in range(10)}
    for seed in range(10):
        fresh = chosen(FakeBench(truths, noise=0.003, seed=seed))
        assert set(fresh.values()) == {"default"}
        present = table_of(dict.fromkeys(fresh, "twin"))
        again = chosen(FakeBench(truths, noise=0.003, seed=seed), present)
        assert set(again.values()) == {"twin"}


def test_a_choice_that_has_become_a_loss_goes() -> None:
    bench = FakeBench({"s": both(twin=1.05)})
    assert chosen(bench, table_of({"s few": "twin", "s many": "twin"}))["s few"] == "default"


def test_a_second_run_on_its_own_table_gives_that_table_again() -> None:
    truths = {f"s{i}": both(twin=0.9 + i / 100, foreign=0.91) for i in range(8)}
    for any_bits in (False, True):
        table = table_of(chosen(FakeBench(truths, seed=1), any_bits=any_bits), any_bits)
        names = {
            table_of(chosen(FakeBench(truths, seed=s), table, any_bits=any_bits), any_bits).name
            for s in range(2, 12)
        }
        assert names == {table.name}


def test_what_hardly_counts_keeps_the_default() -> None:
    truths = {"s": both(twin=0.5)}
    assert chosen(FakeBench(truths, share=0.0005))["s few"] == "default"
    assert chosen(FakeBench(truths, share=0.01))["s few"] == "twin"
    # ... but a choice that is there does not flip where its gain wavers around the limit.
    present = table_of({"s few": "twin", "s many": "twin"})
    assert chosen(FakeBench(truths, share=0.0005), present)["s few"] == "twin"


def test_a_table_that_makes_whole_steps_slower_is_dropped() -> None:
    truths = {"s": both(twin=0.8)}
    bench = FakeBench(truths, verdict=1.02)
    result = tune(bench, None)
    assert bench.verified == 1 and not result.holds
    assert {e.variant for e in result.entries} == {"default"}
    assert tune(FakeBench(truths, verdict=1.005), None).holds


def test_noise_excuses_a_whole_step_as_far_as_it_goes() -> None:
    even = Ratio(1.0, 1.0, 0.0)
    for median, least, noise, is_loss in (
        (1.03, 1.02, 0.005, True),
        (1.03, 1.02, 0.02, False),
        (1.03, 1.005, 0.0, False),  # a third of the blocks saw none
        (0.9, 0.8, 0.0, False),
    ):
        ratio = Ratio(median, least, noise)
        assert ratio.is_loss is is_loss
        assert Verdict("few", even, ratio).holds is not is_loss
        assert Verdict("few", ratio, even).holds is not is_loss


# ---- token classes and bit groups ----------------------------------------------------------------


def test_few_and_many_tokens_are_chosen_apart() -> None:
    bench = FakeBench({"s": {"few": {"twin": 0.8}, "many": {"twin": 1.2}}})
    assert chosen(bench) == {"s few": "twin", "s many": "default"}


def test_another_bit_group_wins_only_when_asked_for() -> None:
    truths = {"s": both(foreign=0.5)}
    result = tune(FakeBench(truths), None)
    assert {e.variant for e in result.entries} == {"default"}
    assert all("--any-bits" in choice.reason for choice in result.choices)
    assert set(chosen(FakeBench(truths), any_bits=True).values()) == {"foreign"}


def test_the_number_of_tokens_never_decides_the_bits() -> None:
    cases: list[tuple[Truth, dict[str, str]]] = [
        # A loss for many tokens keeps the whole group out.
        (
            {"few": {"foreign": 0.6}, "many": {"foreign": 1.1}},
            {"few": "default", "many": "default"},
        ),
        # No loss is enough to follow.
        (
            {"few": {"foreign": 0.6}, "many": {"foreign": 0.98}},
            {"few": "foreign", "many": "foreign"},
        ),
        # Inside the other group each class has its own best.
        (
            {"few": {"foreign": 0.6, "foreign2": 0.9}, "many": {"foreign": 0.9, "foreign2": 0.7}},
            {"few": "foreign", "many": "foreign2"},
        ),
        # The group that gains more over both.
        (
            {"few": {"foreign": 0.8, "twin": 0.7}, "many": {"foreign": 0.8, "twin": 0.7}},
            {"few": "twin", "many": "twin"},
        ),
    ]
    for truth, wanted in cases:
        found = chosen(FakeBench({"s": truth}, noise=0.003), any_bits=True)
        assert found == {f"s {tokens}": name for tokens, name in wanted.items()}
        groups = {GROUPS[name] for name in found.values()}
        assert len(groups) == 1


@pytest.mark.parametrize("seed", range(10))
def test_random_truths_never_split_bits_and_never_lose(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [name for name in GROUPS if name != "default"]
    truths: dict[str, Truth] = {
        f"s{i}": {t: dict(zip(names, rng.uniform(0.6, 1.4, 3), strict=True)) for t in TOKEN_CLASSES}
        for i in range(30)
    }
    found = chosen(FakeBench(truths, noise=0.003, seed=seed), any_bits=True)
    for shape, truth in truths.items():
        pair = {tokens: found[f"{shape} {tokens}"] for tokens in TOKEN_CLASSES}
        assert len({GROUPS[name] for name in pair.values()}) == 1
        for tokens, name in pair.items():
            assert truth[tokens].get(name, 1.0) < 1.01


def test_merging_keeps_what_was_not_measured() -> None:
    old = table_of({"a few": "twin", "b few": "twin"})
    new = table_of({"b few": "default", "c few": "twin"})
    kept = {entry.shape: entry.variant for entry in lab.merged(old, new).entries}
    assert kept == {"a": "twin", "b": "default", "c": "twin"}
    assert lab.merged(table_of({"a few": "twin"}, any_bits=True), new) == new
    assert lab.merged(None, new) == new


# ---- on a model --------------------------------------------------------------------------------

native = pytest.mark.skipif(make_executor(1) is None, reason="installed without a compiler")
TWIN = "test-twin"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tune") / "tiny.gguf"
    tiny.write_gguf(path, tiny.BASE, tiny.random_weights(tiny.BASE), "Q8_0")
    return str(path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PYROCLAST_FROZEN", raising=False)
    monkeypatch.delenv("PYROCLAST_KERNELS", raising=False)
    return tmp_path


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> str:
    """A variant of norm that is the default under another name."""
    op, default = get_op("norm"), Selection("frozen").variant("norm")
    made = Variant("norm", TWIN, default.formats, default.bit_group, "", default.bind)
    monkeypatch.setitem(op.variants, TWIN, made)
    return default.name


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@native
def test_a_model_s_subjects_are_those_of_its_step(model: str, twin: str) -> None:
    with ModelSteps(model, threads=2, compute="auto", kv_dtype="auto") as steps:
        bench = ModelBench(steps, any_bits=False)
        wanted = {call_class_of(call) for call in steps.program.calls}
        assert {(s.op, s.format, s.shape) for s in bench.call_classes} == wanted
        [norm] = [s for s in bench.call_classes if s.op == "norm"]
        assert next(iter(norm.groups)) == twin and TWIN in norm.groups
        homes = {s.groups[s.default] for s in bench.call_classes}
        assert all(set(s.groups.values()) <= homes for s in bench.call_classes)
        measured = bench.measure(3)
        assert bench.notes == []
        # The output matrix of a prefill step has one row: it belongs to the few.
        ops = {tokens: {s.op for s in measured[tokens][0].default} for tokens in TOKEN_CLASSES}
        assert "sample" in ops["few"] and "sample" not in ops["many"]
        assert {"attention", "matmul", "norm"} <= ops["many"] & ops["few"]
        for block in measured["few"]:
            assert sum(block.default.values()) == pytest.approx(block.step)


@native
def test_a_variant_that_breaks_its_bit_group_is_left_out(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel of another bit group, registered under the default's."""
    default = Selection("frozen").variant("norm")
    foreign = next(
        v
        for v in get_op("norm").variants.values()
        if not v.unavailable and v.bit_group != default.bit_group and v.name.startswith("cpp")
    )
    made = Variant("norm", TWIN, default.formats, default.bit_group, "", foreign.bind)
    monkeypatch.setitem(get_op("norm").variants, TWIN, made)
    with ModelSteps(model, threads=1, compute="auto", kv_dtype="auto") as steps:
        bench = ModelBench(steps, any_bits=False)
        bench.measure(3)
        [norm] = {s for s in bench.call_classes if s.op == "norm"}
        assert TWIN not in norm.groups
        assert any(TWIN in note and "other bits" in note for note in bench.notes)


@native
def test_a_wrong_variant_is_left_out(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default, (address, kept) = Selection("frozen").variant("norm"), nothing()
    made = Variant("norm", TWIN, default.formats, default.bit_group, "", lambda _: address)
    monkeypatch.setitem(get_op("norm").variants, TWIN, made)
    with ModelSteps(model, threads=1, compute="auto", kv_dtype="auto") as steps:
        bench = ModelBench(steps, any_bits=False)
        [norm] = {s for s in bench.call_classes if s.op == "norm"}
        assert TWIN not in norm.groups and kept
        assert any(f"norm.f32={TWIN} is wrong" in note for note in bench.notes)


@native
def test_a_variant_that_cannot_be_bound_is_left_out(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bind(_: str) -> int:
        raise KernelError("the compiler gave up")

    default = Selection("frozen").variant("norm")
    made = Variant("norm", TWIN, default.formats, default.bit_group, "", bind)
    monkeypatch.setitem(get_op("norm").variants, TWIN, made)
    with ModelSteps(model, threads=1, compute="auto", kv_dtype="auto") as steps:
        bench = ModelBench(steps, any_bits=False)
    assert bench.notes == [f"norm.f32={TWIN} cannot run: the compiler gave up"]


def nothing() -> tuple[int, Any]:
    """The address of a kernel that does nothing, and what keeps it alive."""
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)(
        lambda args, part, n_parts: None
    )
    return ctypes.cast(kernel, ctypes.c_void_p).value or 0, kernel


@native
def test_the_command_writes_a_table_that_later_runs_name(
    model: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "tune", "-m", model, "-r", "3", "--threads", "1", "--json")
    found = json.loads(out)
    assert code == 0 and Path(found["path"]).is_relative_to(cache)
    assert {row["op"] for row in found["choices"]} >= {"matmul", "attention", "norm", "sample"}
    for row in found["choices"]:
        groups = row["bit_groups"]
        assert groups[row["chosen"]] == groups[row["default"]]
    code, out, _ = run(capsys, "kernels", "--json")
    assert json.loads(out)["table"] == found["table"]
    code, out, _ = run(capsys, "generate", "a", "-n", "2", "-m", model, "--json")
    assert json.loads(out)["table"] == found["table"]
    code, out, _ = run(capsys, "generate", "a", "-n", "2", "-m", model, "--json", "--frozen")
    assert json.loads(out)["table"] == "defaults"
    args = ("-p", "4", "-n", "0", "-r", "1", "-m", model, "--json")
    code, out, _ = run(capsys, "bench", *args)
    assert json.loads(out)["table"] == found["table"]


@native
def test_frozen_stands_beside_rules(
    model: str, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("generate", "a", "-n", "1", "-m", model, "--json", "--frozen")
    monkeypatch.setenv("PYROCLAST_KERNELS", "norm=numpy")
    _, out, _ = run(capsys, *args)
    assert json.loads(out)["kernels"]["norm.f32"] == "numpy"
    _, out, _ = run(capsys, *args, "--kernels", "glu=numpy")
    kernels = json.loads(out)["kernels"]
    assert kernels["norm.f32"] != "numpy" and kernels["glu.f32"] == "numpy"
    assert list(cache.iterdir()) == []


@native
def test_a_dry_run_writes_nothing_and_bad_numbers_are_refused(
    model: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "tune", "-m", model, "-r", "3", "--dry-run")
    assert code == 0 and "not written" in out and "| op " in out
    assert list(cache.rglob("tune")) == []
    code, _, err = run(capsys, "tune", "-m", model, "-r", "2")
    assert code == 2 and "at least 3" in err


@native
def test_an_unwritable_cache_is_one_line(
    model: str, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    code, _, err = run(capsys, "tune", "-m", model, "-r", "3", "--threads", "1")
    assert code == 1 and "XDG_CACHE_HOME" in err and err.count("\n") == 1


@native
def test_generation_under_a_table_gives_the_same_text(model: str, cache: Path, twin: str) -> None:
    entries = tuple(
        Entry("norm", "f32", "128", tokens, TWIN, twin, 0.9) for tokens in TOKEN_CLASSES[1:]
    )
    tables.save(TunedTable(tables.fingerprint(), tables.build_id(), entries))
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    prompt = [i % 200 for i in range(40)]
    with LLM(model, kernels="frozen") as llm:
        [plain] = llm.generate(prompt, params)
        assert llm.kernels["norm.f32"] == twin and llm.table == "defaults"
    with LLM(model) as llm:
        [tuned] = llm.generate(prompt, params)
        # One recorded step holds both: many tokens under the twin, few under the default.
        assert set(llm.kernels["norm.f32"].split("+")) == {twin, TWIN}
        assert llm.table.startswith("tuned-")
    assert plain.token_ids == tuned.token_ids
    assert cache.exists()
