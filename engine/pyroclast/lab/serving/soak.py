"""A server under more load than it can carry, and under misuse: nothing may be lost, grow or stop.

Twice as many clients as the server has places ask at once (`misuse`).  Every finished answer is
compared with the one that its request gave alone.  /health is asked from a process of its own.  At
the end the server is killed in the middle of streams, and started again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyroclast.lab.peers.arguments import told_in_a_line
from pyroclast.lab.serving.client import Address, Raw, Reader, load, post
from pyroclast.lab.serving.misuse import PATH, Asked, client
from pyroclast.lab.serving.servers import Running, exit_on_sigterm, free_port
from pyroclast.lab.speed.process import JsonProcess, inherited_path, python_command
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.progress import progress_bar
from pyroclast_kernels import features

N_SEQS, N_QUEUED = 8, 6
_N_CLIENTS = 2 * N_SEQS
_N_ASKED = 24
_WARM_UP = 0.2  # of the time
_MAX_GROWTH, _HEALTH_MS = 0.05, 100.0
_SAMPLE_S = 0.5
_IDLE_S = 60.0
_EXTRA_THREADS = 6  # of asyncio's pool, which grows when several long prompts come at once


@dataclass
class Seen:
    """What came of a phase."""

    words: Counter[str] = field(default_factory=Counter)
    rss_bytes: list[int] = field(default_factory=list)


def status(pid: int, key: str) -> int:
    """A number of /proc/PID/status, in bytes where it is memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            words = line.split()
            return int(words[1]) * (1024 if words[-1] == "kB" else 1)
    raise KeyError(key)


def n_files(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def requests(address: Address, seed: int) -> list[Asked]:
    """Seeded requests of several lengths, with the answers that they give alone."""
    dice = random.Random(seed)  # noqa: S311
    asked = []
    for i in range(_N_ASKED):
        body = {
            "prompt": f"Chapter {i}. {'Once upon a time ' * dice.choice((1, 1, 1, 8, 60))}",
            "max_tokens": dice.randint(4, 48),
            "temperature": 0.9,
            "seed": i,
            "ignore_eos": True,
            "stream": True,
        }
        request = post(PATH, body, address)
        [answer], _ = load(address, [request], 1)
        asked.append(Asked(request, answer.text))
    return asked


async def phase(
    server: Running, asked: list[Asked], seconds: float, seed: int, show: Callable[[int], None]
) -> Seen:
    """All clients for so many seconds; samples the server's memory meanwhile."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + seconds
    dice = [random.Random(f"{seed} {i}") for i in range(_N_CLIENTS)]  # noqa: S311
    clients = asyncio.gather(*(client(server.address, asked, each, until_s) for each in dice))
    seen = Seen()
    while not clients.done():
        seen.rss_bytes.append(status(server.process.pid, "VmRSS"))
        show(round(seconds - max(until_s - loop.time(), 0)))
        await asyncio.wait([clients], timeout=_SAMPLE_S)
    for each in clients.result():
        seen.words.update(each)
    return seen


def idle_counts(pid: int, n_files_before: int) -> tuple[int, int]:
    """(Threads, descriptors) once the server is idle: when it has as many descriptors as before, or
    after a minute."""
    until_s = time.monotonic() + _IDLE_S
    while n_files(pid) > n_files_before and time.monotonic() < until_s:
        time.sleep(_SAMPLE_S)
    return status(pid, "Threads"), n_files(pid)


async def killed(server: Running, asked: list[Asked]) -> tuple[int, int]:
    """(Streams that were cut, of how many) by `kill -9` once all have begun.

    No more than may wait: on a busy machine all of them come before the first step."""
    body = {"prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    request = post(PATH, body, server.address)
    connect = asyncio.get_running_loop().create_connection
    made = [await connect(lambda: Reader(request), *server.address) for _ in asked[:N_QUEUED]]
    until_s = time.monotonic() + _IDLE_S
    while not all(each.raw.reads for _, each in made) and time.monotonic() < until_s:
        await asyncio.sleep(0.01)
    server.process.send_signal(signal.SIGKILL)
    await asyncio.wait([each.ended for _, each in made], timeout=10)
    for transport, _ in made:
        transport.close()
    return sum(each.ended.done() and _is_cut(each.raw) for _, each in made), len(made)


def _is_cut(raw: Raw) -> bool:
    """Whether a stream had begun and has no end."""
    return raw.status == 200 and b"data: [DONE]" not in raw.reads[-1][1]


def start(model: str, port: int, threads: int) -> Running:
    """The server under test."""
    flags = ["--port", str(port), "--threads", str(threads), "--max-seqs", str(N_SEQS)]
    flags += ["--max-queued-requests", str(N_QUEUED)]
    command = python_command("-m", "pyroclast", "serve", model, *flags)
    return Running(command, inherited_path(), port)


@dataclass(frozen=True)
class Soaked:
    """What a server went through."""

    words: Counter[str]  # what the clients saw, and how often
    rss_bytes: tuple[float, float]  # at the begin and the end of the time after warming up
    n_more_threads: int
    n_more_files: int
    health: dict[str, Any]

    @property
    def wrong(self) -> dict[str, int]:
        """What no client may see."""
        return {word: n for word, n in self.words.items() if word.startswith("wrong")}


def under_load(server: Running, asked: list[Asked], seconds: float, seed: int) -> Soaked:
    """Warms the server up, then loads it while its health is watched."""
    pid, warm_s = server.process.pid, _WARM_UP * seconds
    files_before = n_files(pid)
    command = python_command("-m", "pyroclast.lab.serving.health")
    command += [server.address[0], str(server.address[1]), str(pid)]
    with progress_bar(round(seconds), "s") as show:
        warm = asyncio.run(phase(server, asked, warm_s, seed, show))
        threads_before, _ = idle_counts(pid, files_before)
        health = JsonProcess(command, inherited_path())
        try:
            rest_s = seconds - warm_s
            add = round(warm_s)
            seen = asyncio.run(phase(server, asked, rest_s, seed + 1, lambda n: show(add + n)))
            health.send({})
            probe = health.receive(_IDLE_S)
        finally:
            health.stop()
    threads_after, files_after = idle_counts(pid, files_before)
    tenth = max(1, len(seen.rss_bytes) // 10)
    first = statistics.median(seen.rss_bytes[:tenth])
    last = statistics.median(seen.rss_bytes[-tenth:])
    more = threads_after - threads_before, files_after - files_before
    return Soaked(warm.words + seen.words, (first, last), *more, probe)


def run(model: str, threads: int, seconds: float, seed: int) -> dict[str, Any]:
    """The checks, each with what was seen; and what the clients saw."""
    port = free_port()
    with start(model, port, threads) as server:
        server.wait_ready()
        asked = requests(server.address, seed)
        soaked = under_load(server, asked, seconds, seed)
        n_cut, n_streams = asyncio.run(killed(server, asked))
    with start(model, port, threads) as server:
        restart_s = server.wait_ready()
        [again], _ = load(server.address, [asked[0].request], 1)
    first, last = soaked.rss_bytes
    wrong = soaked.wrong
    return {
        "checks": {
            "answers": _check(sum(wrong.values()), 0),
            "memory_growth": _check(last / first - 1, _MAX_GROWTH),
            "threads": _check(soaked.n_more_threads, _EXTRA_THREADS),
            "descriptors": _check(soaked.n_more_files, 0),
            "health_failures": _check(soaked.health["n_failed"], 0),
            "health_max_ms": _check(soaked.health.get("max_ms", 0.0), _HEALTH_MS),
            "streams_left_open_by_kill": _check(n_streams - n_cut, 0),
            "wrong_after_restart": _check(int(again.text != asked[0].text), 0),
        },
        "seconds": seconds,
        "health": soaked.health,
        "seen": {word: n for word, n in sorted(soaked.words.items()) if word not in wrong},
        "wrong": dict(list(wrong.items())[:20]),
        "rss_mb": [round(first / 1e6, 1), round(last / 1e6, 1)],
        "restart_s": restart_s,
    }


def _check(value: float, limit: float) -> dict[str, Any]:
    return {"value": value, "limit": limit, "ok": value <= limit}


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="GGUF file or name")
    parser.add_argument("--minutes", type=float, default=30.0, help="of load (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the clients (0)")
    parser.add_argument("-t", "--threads", type=int, default=features.n_cpus())
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(words)
    if args.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {args.minutes:g}")
    exit_on_sigterm()
    with told_in_a_line(parser.prog):
        result = run(args.model, args.threads, 60 * args.minutes, args.seed)
        for name, check in result["checks"].items():
            told = "ok " if check["ok"] else "FAILED"
            print(f"{told:<7} {name:<26} {check['value']:.4g} (at most {check['limit']:g})")
        print(f"seen: {result['seen']}; wrong: {result['wrong']}; health: {result['health']}")
        if args.json:
            made_with = {**environment(), "n_threads": args.threads}
            write_result(args.json, {"made_with": made_with, "model": args.model, **result})
    if not all(check["ok"] for check in result["checks"].values()):
        sys.exit(1)
