"""The profile: what is told adds up, on any machine; no test compares an absolute time."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from pyroclast.cli import main as cli
from pyroclast.lab.check.inputs import cache_bytes
from pyroclast.lab.profile import breakdown as cut
from pyroclast.lab.profile.chrome_trace import CALLS_TRACK, PID, TraceFileError, events, write_trace
from pyroclast.lab.profile.products import products
from pyroclast.lab.profile.profile import profile, prompt_of
from pyroclast.lab.profile.record import ProfiledLLM, Recorded, RecordedStep
from pyroclast.lab.profile.replay import explain, n_ops, replay
from pyroclast.lab.speed.machine import read_size
from pyroclast.lab.speed.rows import MeasuredCeiling
from pyroclast.llm import LLM
from pyroclast.sampling.params import SamplingParams
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.tables import FEW_TOKENS, TOKEN_CLASSES, Entry, TunedTable
from pyroclast_kernels.timeline import PART

N_PROMPT, N_GEN = 40, 6
PARAMS = SamplingParams(temperature=0, max_tokens=N_GEN, ignore_eos=True)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("profile") / "tiny.gguf"
    tiny.write_gguf(path, tiny.BASE, tiny.random_weights(tiny.BASE), "Q8_0")
    return str(path)


def record(model: str, n_prompt: int = N_PROMPT, **options: Any) -> Recorded:
    with ProfiledLLM(model, **options) as llm:
        return llm.record(prompt_of(n_prompt, 256), PARAMS)


@pytest.fixture(scope="module", params=[1, 2, 3])
def recorded(model: str, request: pytest.FixtureRequest) -> Recorded:
    return record(model, threads=request.param)


# ---- what was recorded -------------------------------------------------------------------------


def test_it_is_the_generation_that_would_have_run_without_it(model: str) -> None:
    recorded = record(model)
    with LLM(model) as llm:
        [plain] = llm.generate(prompt_of(N_PROMPT, 256), PARAMS)
    assert recorded.completion.token_ids == plain.token_ids
    assert recorded.completion.text == plain.text


def test_every_step_is_there_with_its_tokens(recorded: Recorded) -> None:
    assert [step.n_tokens for step in recorded.steps] == [N_PROMPT] + [1] * (N_GEN - 1)
    prefill, decode = cut.split(recorded)
    assert (len(prefill), len(decode)) == (1, N_GEN - 1)


def test_a_long_prompt_takes_several_steps(model: str) -> None:
    recorded = record(model, max_batch_tokens=16)
    assert [step.n_tokens for step in recorded.steps] == [16, 16, 8] + [1] * (N_GEN - 1)
    assert [len(steps) for steps in cut.split(recorded)] == [3, N_GEN - 1]


def test_spans_lie_one_after_the_other_within_the_whole(recorded: Recorded) -> None:
    spans = sorted(
        (*recorded.texts, *(step.span for step in recorded.steps)), key=lambda span: span.begin_ns
    )
    times = [recorded.begin_ns, *(t for s in spans for t in (s.begin_ns, s.end_ns))]
    assert [*times, recorded.end_ns] == sorted([*times, recorded.end_ns])
    for step in recorded.steps:
        assert step.span.begin_ns <= step.run.begin_ns <= step.run.end_ns <= step.span.end_ns
        assert step.run.begin_ns <= step.run.parts["begin_ns"].min()
        assert step.run.parts["end_ns"].max() <= step.run.end_ns


# ---- sums --------------------------------------------------------------------------------------


def test_the_parts_add_up_to_the_whole(recorded: Recorded) -> None:
    found = cut.breakdown(recorded)
    assert all(us >= 0 for us in found["parts_us"].values()), found["parts_us"]
    assert sum(found["parts_us"].values()) == pytest.approx(found["wall_us"], rel=1e-9)
    # What Python, tokenizer and barriers leave over is the ops: found another way.
    outside = sum(us for name, us in found["parts_us"].items() if name not in ("ops", "sampling"))
    ops = sum(op["wall_us"] for phase in found["phases"] for op in phase["ops"])
    assert ops == pytest.approx(found["wall_us"] - outside, rel=1e-9)
    assert found["parts_us"]["sampling"] > 0 and found["parts_us"]["detokenizer"] > 0


def test_each_phase_adds_up_by_op_and_by_layer(recorded: Recorded) -> None:
    for phase in cut.breakdown(recorded)["phases"]:
        parts = phase["parts_us"]
        inside = parts["ops"] + parts["sampling"]
        assert sum(parts.values()) == pytest.approx(phase["steps_us"], rel=1e-9)
        for rows in (phase["ops"], phase["layers"]):
            assert sum(row["wall_us"] for row in rows) == pytest.approx(inside, rel=1e-9)
            for row in rows:
                assert 0 <= row["fastest_us"] <= row["wall_us"] * (1 + 1e-9)
                assert row["busy_us"] + row["wait_us"] == pytest.approx(
                    recorded.n_threads * row["wall_us"], rel=1e-9
                )
                assert row["wait_us"] >= -1e-6
        labels = [row["name"] for row in phase["layers"]]
        assert labels == ["embedding", "layer 0", "layer 1", "output", "sampling"]


def test_products_are_told_apart_and_held_against_the_ceilings(model: str) -> None:
    ceilings = [
        MeasuredCeiling("read", 2, 10.0, "GB/s", read_size(4 * cache_bytes())),
        MeasuredCeiling("vnni", 2, 1e9, "Gop/s"),
    ]
    with ProfiledLLM(model, threads=2) as llm:
        recorded = llm.record(prompt_of(N_PROMPT, 256), PARAMS)
        found = [products(steps, llm.model.places, ceilings) for steps in cut.split(recorded)]
        places = llm.model.places
        n_bytes = sum({id(p.target): p.target.n_bytes for name, p in places.items()
                       if name.endswith((".wo", ".w_down"))}.values())  # fmt: skip
        n_values = sum(2 * p.target.n_rows * p.target.n_cols for name, p in places.items()
                       if name.endswith((".wo", ".w_down")))  # fmt: skip
    assert [{row["name"] for row in rows} for rows in found] == [
        {"wq+wk+wv", "wo", "w_gate+w_up", "w_down", "output"}
    ] * 2
    for rows, n_steps, n_tokens in zip(found, (1, N_GEN - 1), (N_PROMPT, N_GEN - 1), strict=True):
        mine = [row for row in rows if row["name"] in ("wo", "w_down")]
        moved, done = (
            sum(row[key] * row["wall_us"] * 1000 for row in mine) for key in ("gb_s", "gflop_s")
        )
        assert moved == pytest.approx(n_steps * n_bytes)
        assert done == pytest.approx(n_tokens * n_values)
        for row in rows:
            assert row["roofline_limit"] == "read"
            assert row["roofline_share"] == pytest.approx(row["gb_s"] / 10.0)


def test_products_in_matrix_registers_are_held_against_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt's are; its output, of one token, and decoding take multiply-adds."""
    path = tmp_path / "tiny.gguf"
    tiny.write_gguf(path, tiny.BASE, tiny.random_weights(tiny.BASE), "BF16")
    with ProfiledLLM(str(path), threads=1) as llm:
        recorded = llm.record(prompt_of(N_PROMPT, 256), PARAMS)
        monkeypatch.setattr(RecordedStep, "variant", lambda *_: "cpp-amxbf16")
        ceilings = [MeasuredCeiling(k, 1, v, "Gop/s") for k, v in (("amxbf16", 1), ("fma", 1))]
        prompt, decode = (products(s, llm.model.places, ceilings) for s in cut.split(recorded))
    assert {row["name"]: row["roofline_limit"] for row in prompt} == {
        name: "fma" if name == "output" else "amxbf16" for name in (row["name"] for row in prompt)
    }
    assert len(prompt) > 3 and {row["roofline_limit"] for row in decode} == {"fma"}


def test_each_thread_is_busy_or_waits(recorded: Recorded) -> None:
    found = cut.breakdown(recorded)
    inside = sum(step.run.wall_ns for step in recorded.steps) / 1000
    assert len(found["threads"]) == recorded.n_threads
    for thread in found["threads"]:
        assert thread["busy_us"] + thread["wait_us"] == pytest.approx(inside, rel=1e-9)
        assert 0 <= thread["longest_wait_us"] <= thread["wait_us"] + 1e-6
    parts = sum(len(step.run.parts) for step in recorded.steps)
    assert sum(thread["n_parts"] for thread in found["threads"]) == parts


def test_a_slow_part_is_seen_where_it_was_and_as_waiting_elsewhere(recorded: Recorded) -> None:
    """A second added to one part: its op, layer and thread grow by it, the others wait for it."""
    step = recorded.steps[-1]
    before = cut.breakdown(recorded)
    parts, slow = step.run.parts, 1_000_000_000
    at = int(np.flatnonzero(parts["call"] == 3)[-1])
    thread, barrier = int(parts["thread"][at]), step.run.calls().end_ns[3]
    kept = parts.copy()
    try:
        parts["begin_ns"][parts["begin_ns"] >= barrier] += slow
        parts["end_ns"][parts["end_ns"] > barrier] += slow
        parts["end_ns"][at] = barrier + slow
        object.__setattr__(step.run, "end_ns", step.run.end_ns + slow)
        object.__setattr__(step.span, "end_ns", step.span.end_ns + slow)
        object.__setattr__(recorded, "end_ns", recorded.end_ns + slow)
        after = cut.breakdown(recorded)
    finally:
        parts[:] = kept
        object.__setattr__(step.run, "end_ns", step.run.end_ns - slow)
        object.__setattr__(step.span, "end_ns", step.span.end_ns - slow)
        object.__setattr__(recorded, "end_ns", recorded.end_ns - slow)
    name = cut.op_name(step.run.program.calls[3])

    def wall(found: dict[str, Any]) -> float:
        [row] = [op for op in found["phases"][1]["ops"] if op["name"] == name]
        return float(row["wall_us"])

    assert wall(after) - wall(before) == pytest.approx(slow / 1000, rel=1e-3)
    for number, (old, new) in enumerate(zip(before["threads"], after["threads"], strict=True)):
        grown = "busy_us" if number == thread else "wait_us"
        assert new[grown] - old[grown] == pytest.approx(slow / 1000, rel=1e-2)
    assert after["parts_us"]["python"] == pytest.approx(before["parts_us"]["python"])


# ---- replays -----------------------------------------------------------------------------------


def test_every_variant_that_can_run_is_replayed_and_the_gap_is_explained(model: str) -> None:
    with ProfiledLLM(model, threads=2) as llm:
        recorded = llm.record(prompt_of(N_PROMPT, 256), PARAMS)
        program, ticks = llm.model.program(sample=True), list[int]()
        replayed = replay(program, ticks.append)
        assert ticks == list(range(1, n_ops(program) + 1))
        for name in {cut.op_name(call) for call in program.calls}:
            op, format = name.split(".")
            rows = {a.variant: a for a in replayed.alone if a.op == name}
            assert set(rows) == set(all_variants(op))
            for variant in all_variants(op).values():
                runs = not variant.unavailable and format in variant.formats
                assert (rows[variant.name].us is not None) == runs
                assert runs or rows[variant.name].reason
            assert [a.variant for a in rows.values() if a.chosen] == [llm.model.kernels[name]]
            # Only Python functions are timed in one layer, and only then is the time scaled.
            several = (
                sum(cut.op_name(call) == name for call in program.calls) > rows["numpy"].n_calls
            )
            assert [a.variant for a in rows.values() if a.scaled] == ["numpy"] * several
    chain = explain(recorded, replayed)
    decode = cut.split(recorded)[1]
    start = cut.split(recorded)[0][-1].span.end_ns
    whole = (recorded.end_ns - start) / len(decode) / 1000
    assert sum(link["us"] for link in chain) == pytest.approx(whole, rel=1e-6)
    # The first four links are the replayed step.
    assert sum(link["us"] for link in chain[:4]) == pytest.approx(replayed.step.wall_ns / 1000)


def test_replaying_leaves_the_model_as_it_was(model: str) -> None:
    prompt = prompt_of(N_PROMPT, 256)
    with ProfiledLLM(model) as llm:
        [before] = llm.llm.generate(prompt, PARAMS)
        replay(llm.model.program(sample=True))
        [after] = llm.llm.generate(prompt, PARAMS)
    assert before.token_ids == after.token_ids


def test_a_reference_in_the_step_is_profiled_too(model: str) -> None:
    with ProfiledLLM(model, kernels="glu=numpy", threads=2) as llm:
        found, recorded = profile(llm, prompt_of(N_PROMPT, 256), N_GEN)
    assert sum(found["parts_us"].values()) == pytest.approx(found["wall_us"], rel=1e-9)
    [row] = [op for op in found["phases"][1]["ops"] if op["name"] == "glu.f32"]
    assert row["variants"] == ["numpy"] and row["wall_us"] > 0
    [chosen] = [o for o in found["replay"]["ops"] if o["op"] == "glu.f32" and o["chosen"]]
    assert chosen["variant"] == "numpy" and recorded.steps


def test_without_the_executor_every_call_is_timed_from_python(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyroclast.model.model.make_executor", lambda _: None)
    with ProfiledLLM(model) as llm:
        found, recorded = profile(llm, prompt_of(N_PROMPT, 256), N_GEN)
    assert found["n_threads"] == 1
    assert sum(found["parts_us"].values()) == pytest.approx(found["wall_us"], rel=1e-9)
    assert all(op["wall_us"] > 0 for phase in found["phases"] for op in phase["ops"])
    for step in recorded.steps:
        assert len(step.run.parts) == len(step.run.program.calls)


def test_steps_of_many_tokens_name_the_table_s_other_kernel(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default, twin = _twin(monkeypatch)
    table = TunedTable("c", "b", (Entry("norm", "f32", "128", "many", twin, default, 0.9),))
    monkeypatch.delenv("PYROCLAST_FROZEN", raising=False)
    monkeypatch.setattr("pyroclast_kernels.tables.current", lambda: (table, ""))
    assert N_PROMPT > FEW_TOKENS and TOKEN_CLASSES == ("few", "many")
    with ProfiledLLM(model) as llm:
        found, _ = profile(llm, prompt_of(N_PROMPT, 256), N_GEN, replays=False)
    assert found["table"] == table.name
    ran = {
        phase["phase"]: op["variants"]
        for phase in found["phases"]
        for op in phase["ops"]
        if op["name"] == "norm.f32"
    }
    # The last norm of a prefill step sees the one row whose logits are wanted.
    assert ran == {"prefill": sorted([default, twin]), "decode": [default]}


def _twin(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    from pyroclast_kernels.registry import Variant, get_op
    from pyroclast_kernels.selection import Selection

    default = Selection("frozen").variant("norm")
    if default.name == "numpy":
        pytest.skip("needs a compiled kernel")
    made = Variant("norm", "test-twin", default.formats, default.bit_group, "", default.bind)
    monkeypatch.setitem(get_op("norm").variants, "test-twin", made)
    return default.name, "test-twin"


# ---- Chrome traces -----------------------------------------------------------------------------


def test_events_of_a_track_nest_and_carry_what_they_are(recorded: Recorded) -> None:
    tracks: dict[int, list[tuple[float, float]]] = defaultdict(list)
    names: dict[int, str] = {}
    for event in json.loads(json.dumps(list(events(recorded)))):
        assert event["ph"] in ("X", "M") and isinstance(event["pid"], int)
        if event["ph"] == "M":
            if event["name"] == "thread_name":
                names[event["tid"]] = event["args"]["name"]
            continue
        assert event["dur"] >= 0 and event["ts"] >= 0 and event["name"]
        tracks[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        if event["cat"] == "part":
            assert {"label", "part", "step"} <= set(event["args"])
    # Not from 0 on: Perfetto takes 0 and the process's own number for one thread.
    assert set(names) == {*range(PID, PID + recorded.n_threads), CALLS_TRACK}
    assert set(tracks) <= set(names) and {PID, CALLS_TRACK} <= set(tracks)
    for spans in tracks.values():
        _check_nesting(spans)
    n_parts = sum(len(step.run.parts) for step in recorded.steps)
    n_calls = sum(len(step.run.program.calls) for step in recorded.steps)
    assert len(tracks[CALLS_TRACK]) == n_calls
    inside = sum(len(spans) for track, spans in tracks.items() if track != CALLS_TRACK)
    assert inside == n_parts + len(recorded.steps) + len(recorded.texts) + 1


def _check_nesting(spans: list[tuple[float, float]]) -> None:
    """Each event ends before the next begins, or encloses it."""
    slack = 2e-3  # microseconds: times are rounded to doubles of microseconds
    stack: list[float] = []
    for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        while stack and stack[-1] <= begin + slack:
            stack.pop()
        assert not stack or end <= stack[-1] + slack
        stack.append(end)


def test_the_file_is_one_json_object(recorded: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    n_events = write_trace(recorded, path, {"model": "tiny"})
    found = json.loads(path.read_text())
    assert len(found["traceEvents"]) == n_events == len(list(events(recorded)))
    assert found["otherData"] == {"model": "tiny"}
    with pytest.raises(TraceFileError, match="cannot write"):
        write_trace(recorded, tmp_path / "none" / "trace.json", {})


def test_parts_in_a_trace_have_the_layout_of_the_executor_s() -> None:
    assert PART.itemsize == 32 and PART.names == (
        "run", "call", "part", "thread", "begin_ns", "end_ns",
    )  # fmt: skip


# ---- the command -------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_json_is_complete(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    code, out, _ = run(
        capsys, "profile", model, "-p", "8", "-n", "3", "--json", "--trace", str(path)
    )
    found = json.loads(out)
    assert code == 0 and (found["n_prompt"], found["n_gen"]) == (8, 3)
    assert found["schema"] == "pyroclast.profile" and found["table"] == "defaults"
    assert sum(found["parts_us"].values()) == pytest.approx(found["wall_us"])
    assert found["replay"]["ops"] and found["replay"]["explained"]
    assert len(json.loads(path.read_text())["traceEvents"]) == found["trace_events"]


def test_a_text_is_tokenized_within_the_profile(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("profile", model, "--prompt", "the band and", "-n", "2", "--no-replay")
    code, out, _ = run(capsys, *args, "--json")
    found = json.loads(out)
    assert code == 0 and found["parts_us"]["tokenizer"] > 0 and "replay" not in found


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_advice_measures_the_limits_of_as_many_threads(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    """`kernels check` measures those of one thread, which leaves those of two unknown."""
    monkeypatch.setattr("pyroclast.lab.speed.kept_ceilings.known", lambda *_: [])
    _, out, _ = run(capsys, "profile", model, "-p", "8", "--no-replay", "--threads", str(n_threads))
    advice = f"bench kernels --op norm --variant numpy --quick --threads {n_threads}\n"
    assert f"The limits of {n_threads} thread" in out and advice in out


def test_tables_are_markdown_on_a_pipe(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "profile", model, "-p", "8", "-n", "3")
    assert code == 0 and "█" not in out and "\x1b" not in out
    tables = [block for block in out.split("\n\n") if block.startswith("|")]
    assert len(tables) == 10
    for table in tables:
        lines = table.splitlines()
        assert len({line.count("|") for line in lines}) == 1 and set(lines[1]) <= set("|-:")
    for words in (
        "layer 1",
        "matmul.q8_0",
        "wq+wk+wv (q8_0)",
        "w_down (q8_0)",
        "at barriers",
        "the ops alone",
        "sum",
    ):
        assert words in out


def test_a_terminal_gets_bars(model: str) -> None:
    terminal, inside = pty.openpty()
    paths = os.pathsep.join([str(ROOT / "engine"), str(ROOT / "kernels")])
    process = subprocess.Popen(
        [sys.executable, "-m", "pyroclast", "profile", model, "-p", "8", "-n", "3", "--no-replay"],
        stdout=inside,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    os.close(inside)
    shown = b""
    try:
        while data := os.read(terminal, 1 << 16):
            shown += data
    except OSError:  # how Linux tells that the other end is closed
        pass
    os.close(terminal)
    process.communicate()
    assert process.returncode == 0 and "█".encode() in shown and b"\x1b[1m" in shown


@pytest.mark.parametrize(
    ("args", "exit_code", "words"),
    [
        (("-n", "0"), 2, "at least 1"),
        (("-p", "0"), 2, "at least 1"),
        (("-p", "4", "--prompt", "a"), 2, "not both"),
        (("-p", "300"), 1, "256"),
        (("--kernels", "matmul=warp"), 1, "warp"),
    ],
)
def test_bad_arguments_are_one_line(
    model: str,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    exit_code: int,
    words: str,
) -> None:
    code, out, err = run(capsys, "profile", model, *args)
    assert code == exit_code and words in err and err.count("\n") == 1 and not out


def test_a_trace_that_cannot_be_written_is_one_line(
    model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    args = ("-p", "4", "-n", "1", "--no-replay", "--trace", str(tmp_path))
    code, _, err = run(capsys, "profile", model, *args)
    assert code == 1 and "cannot write the trace" in err and err.count("\n") == 1
