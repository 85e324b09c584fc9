"""The benchmark of servers: its client, its figures, and a whole run against a fake server."""

import json
import sys
import time
from pathlib import Path
from statistics import median

import pytest

import tiny
from pyroclast.lab.serving import client, serve, servers, speed
from pyroclast.lab.serving.client import Answer, LoadError, Raw
from pyroclast.lab.serving.prompts import Prompts
from pyroclast.lab.serving.servers import Kind, Plan

FAKE = Path(__file__).parents[1] / "fake_server.py"
PLAN = Plan(threads=1, n_clients=2, max_tokens=64)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    weights = tiny.random_weights(tiny.BASE)
    return tiny.write_gguf(tmp_path_factory.mktemp("serving") / "tiny.gguf", tiny.BASE, weights)


def fake(*flags):
    command = [sys.executable, str(FAKE), *flags]
    return Kind("fake", "none", lambda port, _: [*command, "--port", str(port)])


def events(*values):
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


def choice(text, reason=None):
    return {"choices": [{"text": text, "finish_reason": reason}]}


# ---- the client ----------------------------------------------------------------------------


def test_an_answer_has_the_time_of_each_token_and_the_usage():
    usage = {"choices": [], "usage": {"completion_tokens": 2}}
    whole = events(choice("a"), choice("b"), choice("", "length"), usage) + b"data: [DONE]\n\n"
    first, rest = whole[:20], whole[20:]
    raw = Raw(1.0, [(2.0, HEAD + b"\r\n" + first), (3.0, rest[:-5]), (9.0, rest[-5:])])
    answer = raw.answer()
    assert answer == Answer(1.0, [3.0, 3.0], 2, "ab", "length")
    assert (answer.first_s, answer.gaps_s) == (2.0, [0.0])


def test_events_are_put_together_over_http_chunks_and_pings_are_no_tokens():
    whole = b": ping\n\n" + events(choice("a"), choice("b", "stop")) + b"data: [DONE]\n\n"
    chunks = [whole[i : i + 13] for i in range(0, len(whole), 13)]
    reads = [(0.0, HEAD + b"Transfer-Encoding: chunked\r\n\r\n")]
    reads += [(float(i), b"%x\r\n%s\r\n" % (len(c), c)) for i, c in enumerate(chunks, 1)]
    answer = Raw(0.0, [*reads, (99.0, b"0\r\n\r\n")]).answer()
    assert (answer.text, answer.finish_reason) == ("ab", "stop")
    ends = [whole.index(b"\n", whole.index(text)) for text in (b'"a"', b'"b"')]
    assert answer.times_s == [1.0 + end // 13 for end in ends]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (b"", "answered b''"),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\nfull", "429"),
        (HEAD + b"\r\n" + events(choice("a")), "after 1 tokens"),
        (HEAD + b"\r\n" + events({"error": {"message": "broke"}}), "broke"),
    ],
)
def test_what_is_no_whole_stream_is_an_error(reply, told):
    with pytest.raises(LoadError, match=told):
        Raw(0.0, [(1.0, reply)] if reply else []).answer()


def test_clients_have_one_request_under_way_each():
    with servers.started(fake("--gap", "0.02"), PLAN) as server:
        server.wait_ready()
        request = client.post("/v1/completions", {"max_tokens": 5}, server.address)
        for _ in range(20):  # a busy machine may delay what is beside, and read two tokens at once
            alone, alone_s = client.load(server.address, [request] * 4, 1)
            beside, beside_s = client.load(server.address, [request] * 4, 4)
            assert [answer.text for answer in alone + beside] == ["xxxxx"] * 8
            assert alone_s > 4 * 5 * 0.02
            gap_s = median(gap for answer in alone for gap in answer.gaps_s)
            if beside_s < 0.7 * alone_s and gap_s > 0.015:
                break
    assert beside_s < 0.7 * alone_s
    assert gap_s > 0.015


# ---- servers and prompts -------------------------------------------------------------------


def test_prompts_have_their_length_and_share_no_beginning(model):
    prompts = Prompts(model)
    found = [prompts.next(n) for n in (7, 40, 40)]
    assert [len(ids) for ids in found] == [7, 40, 40]
    assert found[1][:8] != found[2][:8]
    assert Prompts(model).next(7) == found[0]


def test_a_server_that_ends_or_does_not_answer_tells_why():
    ends = Kind("ends", "", lambda *_: [sys.executable, "-c", "raise SystemExit('no room')"])
    with servers.started(ends, PLAN) as server, pytest.raises(LoadError, match="1: no room"):
        server.wait_ready()
    sleeps = Kind("sleeps", "", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    with servers.started(sleeps, PLAN) as server, pytest.raises(LoadError, match=r"within 0\.3 s"):
        server.wait_ready(0.3)
    assert server.process.returncode == -9
    with pytest.raises(LoadError, match="No such file"):
        servers.started(Kind("none", "", lambda *_: ["/no/such/file"]), PLAN)


def test_peers_are_told_how_many_clients_and_tokens_come(model, tmp_path):
    llama = servers.llama_server(_script(tmp_path), model, "q4_0")
    words = " ".join(llama.command(5, Plan(threads=3, n_clients=4, max_tokens=100)))
    assert "-np 4 -c 400 --kv-unified -t 3 -tb 3" in words
    assert (llama.version, llama.extra) == ("version: fake 1", {"cache_prompt": False})
    vllm = servers.vllm(sys.executable, model.parent) if _has("vllm") else None
    assert vllm is None or "--max-model-len 100" in " ".join(vllm.command(5, PLAN))


def _has(module):
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _script(folder, *flags):
    """The fake server as a program of its own."""
    path = folder / "server"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@" {" ".join(flags)}\n')
    path.chmod(0o755)
    return str(path)


# ---- figures -------------------------------------------------------------------------------


def test_figures_of_a_load():
    answers = [Answer(0.0, [1.0, 1.5, 2.5], 3, "", None), Answer(1.0, [4.0, 4.25], 2, "", None)]
    found = speed.figures(answers, 5.0)
    assert found["output_ts"] == 1.0
    assert found["first_token_ms"] == 2000.0
    assert found["gap_p50_ms"] == 500.0
    assert 900 < found["gap_p95_ms"] < 1000


def test_tokens_that_come_in_one_piece_have_no_ratio_of_gaps(model):
    """Where the machine stood still while the server wrote."""
    options = speed.Options(model, [speed.Cell(7, 1)], 4, 50, 1, 0, 0.3)
    kinds = [Kind(name, "", lambda *_: []) for name in ("ours", "theirs")]
    samples = speed.Samples()
    for kind, gap_s in zip(kinds, (0.5, 0.0), strict=True):
        answer = Answer(0.0, [1.0, 1.0 + gap_s, 1.0 + 2 * gap_s], 3, "", None)
        samples.cells[kind.name, options.cells[0]] = [speed.figures([answer], 5.0)]
    ours, theirs = speed.rows(options, kinds, samples)
    assert (ours["gap_p50_ms"], theirs["gap_p50_ms"]) == (500.0, 0.0)
    assert "gap_p50_ms_ratio" not in theirs and theirs["output_ts_ratio"] == 1.0


def test_no_round_begins_that_would_end_too_late(model, monkeypatch):
    options = speed.Options(model, [], 4, 50, 1, 0, 0.3)
    rounds = speed.Round(options, [], lambda _: None)
    monkeypatch.setattr(rounds, "_round", lambda: time.sleep(0.1))
    assert 1 <= rounds.run().n_rounds <= 3


@pytest.mark.parametrize(
    ("flags", "why"), [((), None), (("--short", "1"), "had"), (("--refuse",), "400")]
)
def test_a_whole_run(model, tmp_path, monkeypatch, capsys, flags, why):
    monkeypatch.setattr(speed, "SETTLE_S", 0)
    path = tmp_path / "out.json"
    words = f"--model {model} --format= --llama-server {_script(tmp_path, *flags)} --json {path}"
    words += " --prompts 12 --clients 1,3 -n 8 --rounds 2 --waves 1 --threads 1"
    serve.main("", words.split())
    result, out = json.loads(path.read_text()), capsys.readouterr().out
    names = ["Pyroclast"] if why else ["Pyroclast", "llama-server"]
    expected = [(n, name) for n in (1, 3) for name in names]
    assert [(row["n_clients"], row["server"]) for row in result["rows"]] == expected
    for row in result["rows"]:
        assert row["n_rounds"] == 2
        assert row["output_ts"] > 0
        assert row["gap_p95_ms"] >= row["gap_p50_ms"] >= 0
    assert result["overhead"]["n_waves"] == 2
    assert "Server overhead at 8 clients" in out
    if why:
        assert why in result["absent"]["llama-server"]
    else:
        ours, theirs = result["rows"][:2]
        assert theirs["output_ts_ratio"] == pytest.approx(ours["output_ts"] / theirs["output_ts"])
        assert theirs["output_ts"] < 1 / 0.002  # it sleeps so long before each token
        assert f"({theirs['output_ts_ratio']:.2f}x)" in out


@pytest.mark.parametrize(("words", "least"), [("-n 1", 2), ("--rounds 0", 1)])
def test_too_little_to_measure_is_refused(words, least, capsys):
    """One token has no time to the next."""
    with pytest.raises(SystemExit) as end:
        serve.main("", words.split())
    assert end.value.code == 2
    assert f"must be at least {least}" in capsys.readouterr().err


def test_sigterm_ends_the_process_through_its_with_blocks(monkeypatch):
    handlers = {}
    monkeypatch.setattr(servers.signal, "signal", handlers.__setitem__)
    servers.exit_on_sigterm()
    with pytest.raises(SystemExit) as end:
        handlers[servers.signal.SIGTERM](15, None)
    assert end.value.code == 143
