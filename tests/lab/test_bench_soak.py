"""The benchmark of reliability: it passes on our server, and its checks see what goes wrong."""

import asyncio
import json
import os
import random
import sys
from pathlib import Path

import pytest

from demo import demo_path
from pyroclast.lab.serving import client, health, misuse, servers, soak
from pyroclast.lab.serving.client import Raw
from pyroclast.lab.serving.servers import Kind, Plan

FAKE = Path(__file__).parents[1] / "fake_server.py"
DICE = random.Random(0)
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.fixture(scope="module")
def fake():
    """A server that answers "xx" to everything, malformed or not."""
    kind = Kind("fake", "", lambda port, _: [sys.executable, str(FAKE), "--port", str(port)])
    with servers.started(kind, Plan(1, 1, 1)) as server:
        server.wait_ready()
        yield server


def asked(server, text):
    return misuse.Asked(client.post(misuse.PATH, {"max_tokens": 2}, server.address), text)


@pytest.mark.parametrize("kind", [misuse.patient, misuse.slow])
def test_readers_compare_what_they_got(fake, kind):
    assert asyncio.run(kind(fake.address, asked(fake, "xx"), DICE)) == "whole"
    told = asyncio.run(kind(fake.address, asked(fake, "xy"), DICE))
    assert told == "wrong: 'xx' instead of 'xy'"


def test_an_answer_to_a_malformed_request_is_wrong(fake, monkeypatch):
    monkeypatch.setattr(misuse, "_BROKEN", (b'{"max_tokens": 1}',))
    told = asyncio.run(misuse.malformed(fake.address, asked(fake, ""), DICE))
    assert told.startswith("wrong: 200")


def test_a_client_without_a_server_tells_of_it(monkeypatch):
    monkeypatch.setattr(misuse, "KINDS", {misuse.patient: 1})
    address = (servers.HOST, servers.free_port())
    wanted = misuse.Asked(b"POST", "")

    async def run():
        until_s = asyncio.get_running_loop().time() + 0.02
        return await misuse.client(address, [wanted], DICE, until_s)

    assert all(word.startswith("wrong: patient met Conn") for word in asyncio.run(run()))


def test_health_counts_answers_and_failures(fake):
    rounds = iter([False, False, True])
    found = health.watch(*fake.address, lambda: next(rounds))
    assert (found["n"], found["n_failed"]) == (2, 0)
    assert 0 < found["p50_ms"] <= found["max_ms"]
    assert "own_max_ms" not in found
    rounds = iter([False, False, True])
    found = health.watch(*fake.address, lambda: next(rounds), os.getpid())
    assert 0 <= found["own_max_ms"] <= found["max_ms"]
    rounds = iter([False, True])
    assert health.watch(servers.HOST, servers.free_port(), lambda: next(rounds))["n_failed"] == 1


def test_a_wait_for_a_core_is_not_the_servers_own(fake, monkeypatch):
    waits = iter([0.0, 5.0, 0.0, 5.0 + 30.0] * 2)  # before: ours, the server's; after: the same
    monkeypatch.setattr(health, "waited_s", lambda _: next(waits))
    rounds = iter([False, False, True])
    found = health.watch(*fake.address, lambda: next(rounds), 1)
    assert (found["own_max_ms"], found["n_own_over_100_ms"]) == (0.0, 0)
    assert found["max_ms"] > 0
    monkeypatch.undo()
    assert health.waited_s("thread-self") >= 0
    assert health.waited_s("no such thread") == 0


def test_what_the_kernel_says_of_a_process():
    before = soak.n_files(os.getpid())
    with open(os.devnull):
        assert soak.n_files(os.getpid()) == before + 1
    assert soak.status(os.getpid(), "VmRSS") > 1 << 20
    assert soak.status(os.getpid(), "Threads") >= 1


def test_a_stream_is_cut_if_it_began_and_has_no_end():
    assert soak._is_cut(Raw(0.0, [(1.0, HEAD + b"data: {}\n\n")]))
    assert not soak._is_cut(Raw(0.0, [(1.0, HEAD + b"data: [DONE]\n\n")]))
    assert not soak._is_cut(Raw(0.0, [(1.0, b"HTTP/1.1 429 Too Many Requests\r\n\r\n")]))
    assert not soak._is_cut(Raw(0.0))


def test_a_failed_check_is_told_and_ends_with_one(monkeypatch, capsys, tmp_path):
    checks = {"answers": soak._check(1, 0), "threads": soak._check(6, 6)}
    result = {"checks": checks, "seen": {}, "wrong": {"wrong: a": 1}, "health": {}}
    monkeypatch.setattr(soak, "run", lambda *_: result)
    path = tmp_path / "out.json"
    with pytest.raises(SystemExit) as end:
        soak.main("", ["--minutes", "1", "--json", str(path)])
    assert end.value.code == 1
    out = capsys.readouterr().out
    assert "FAILED  answers" in out and "ok      threads" in out
    assert json.loads(path.read_text())["checks"]["answers"]["ok"] is False


@pytest.mark.slow
def test_ten_seconds_of_it():
    result = soak.run(str(demo_path()), threads=2, seconds=10.0, seed=1)
    # How soon /health answers depends on what else the machine does, and after two seconds not
    # every block of the KV cache that the load takes has been used.
    failed = {name for name, check in result["checks"].items() if not check["ok"]}
    assert failed <= {"health_max_ms", "memory_growth"}, result
    assert result["checks"]["memory_growth"]["value"] < 0.5
    assert result["seen"]["whole"] > 0
    assert result["seen"]["refused: malformed"] > 0
    assert result["health"]["n"] > 20
