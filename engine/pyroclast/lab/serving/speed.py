"""`pyroclast serve` in turn with other servers: the same weights, prompts and client.

A round starts each server in turn, and ends it before the next one starts.  Each of n clients has
one request under way, for completions of token ids, streamed, greedy, that ignore the end of text.
The cost of the server itself is its time for 8 prompts at once, over that of `LLM.generate` in
another process for the same prompts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyroclast.lab.serving.client import Address, Answer, LoadError, load, post
from pyroclast.lab.serving.prompts import Prompts
from pyroclast.lab.serving.servers import Kind, Plan, started
from pyroclast.lab.speed.process import JsonProcess, inherited_path, python_command
from pyroclast.lab.speed.throughput_rows import quartiles

SETTLE_S = 1.0
_N_WAVE = 8  # prompts at once, where the server is compared with LLM.generate
_N_PROMPT = 110  # their tokens
_MIN_REQUESTS, _PER_CLIENT, _MANY = 4, 2, 32
_IN_PROCESS_S = 300.0
FIGURES = ("output_ts", "first_token_ms", "gap_p50_ms", "gap_p95_ms")
Figures = dict[str, float]


@dataclass(frozen=True)
class Cell:
    """One kind of load."""

    n_prompt: int
    n_clients: int

    @property
    def n_requests(self) -> int:
        """Two for each client, but where there are many, one."""
        if self.n_clients >= _MANY:
            return self.n_clients
        return max(_MIN_REQUESTS, _PER_CLIENT * self.n_clients)


@dataclass(frozen=True)
class Options:
    """What to measure.  n_waves: of 8 prompts at once, in each round; 0 leaves that out.  No round
    begins that would end after `limit_s`."""

    model: Path
    cells: Sequence[Cell]
    n_gen: int
    rounds: int
    threads: int
    n_waves: int
    limit_s: float

    @property
    def plan(self) -> Plan:
        """What servers have to be ready for."""
        n_clients = max((cell.n_clients for cell in self.cells), default=_N_WAVE)
        n_prompt = max([_N_PROMPT, *(cell.n_prompt for cell in self.cells)])
        return Plan(self.threads, max(n_clients, _N_WAVE), n_prompt + self.n_gen + 32)


@dataclass
class Samples:
    """What the rounds brought: the figures of each server in each cell, and seconds of waves."""

    cells: dict[tuple[str, Cell], list[Figures]] = field(default_factory=dict)
    served_s: list[float] = field(default_factory=list)
    in_process_s: list[float] = field(default_factory=list)
    start_s: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    n_rounds: int = 0


class Round:
    """Runs rounds; show is called with the number of loads that are done."""

    def __init__(
        self, options: Options, kinds: Sequence[Kind], show: Callable[[int], None]
    ) -> None:
        self.options, self.kinds, self._show = options, kinds, show
        self.samples = Samples()
        self._prompts = Prompts(options.model)
        self._n_done = 0

    def run(self) -> Samples:
        """All rounds for which there is time."""
        begin = time.monotonic()
        longest_s = 0.0
        for _ in range(self.options.rounds):
            start = time.monotonic()
            if start + longest_s > begin + self.options.limit_s:
                break
            self._round()
            self.samples.n_rounds += 1
            longest_s = max(longest_s, time.monotonic() - start)
        return self.samples

    def _round(self) -> None:
        waves = [
            [self._prompts.next(_N_PROMPT) for _ in range(_N_WAVE)]
            for _ in range(self.options.n_waves)
        ]
        for i, kind in enumerate(self.kinds):
            if kind.name not in self.samples.absent:
                try:
                    self._turn(kind, () if i else waves)
                except LoadError as error:
                    self.samples.absent[kind.name] = str(error)
                time.sleep(SETTLE_S)
        if waves:
            self._in_process(waves)

    def _turn(self, kind: Kind, waves: Sequence[Sequence[list[int]]]) -> None:
        """All loads on one server."""
        with started(kind, self.options.plan) as server:
            self.samples.start_s[kind.name] = server.wait_ready()
            self._ask(kind, server.address, [_N_PROMPT] * _N_WAVE, _N_WAVE)  # warm up
            for cell in self.options.cells:
                lengths = [cell.n_prompt] * cell.n_requests
                found = figures(*self._ask(kind, server.address, lengths, cell.n_clients))
                self.samples.cells.setdefault((kind.name, cell), []).append(found)
                self._done()
            for prompts in waves:
                requests = [self._request(kind, server.address, ids) for ids in prompts]
                self.samples.served_s.append(load(server.address, requests, _N_WAVE)[1])
            if waves:
                self._done()

    def _in_process(self, waves: Sequence[Sequence[list[int]]]) -> None:
        options = self.options
        command = python_command("-m", "pyroclast.lab.serving.in_process")
        worker = JsonProcess(command, inherited_path())
        try:
            max_seqs = options.plan.n_clients
            about = {"model": str(options.model), "threads": options.threads, "max_seqs": max_seqs}
            worker.send(about)
            warm_up = [self._prompts.next(_N_PROMPT) for _ in range(_N_WAVE)]
            for i, prompts in enumerate([warm_up, *waves]):
                worker.send({"prompts": prompts, "n_gen": options.n_gen})
                seconds = float(worker.receive(_IN_PROCESS_S)["seconds"])
                if i:
                    self.samples.in_process_s.append(seconds)
        finally:
            worker.stop()
        self._done()

    def _ask(
        self, kind: Kind, address: Address, lengths: Sequence[int], n_clients: int
    ) -> tuple[list[Answer], float]:
        requests = [self._request(kind, address, self._prompts.next(n)) for n in lengths]
        answers, seconds = load(address, requests, n_clients)
        n_tokens = {answer.n_tokens for answer in answers}
        if n_tokens != {self.options.n_gen}:
            raise LoadError(f"answers had {sorted(n_tokens)} tokens, not {self.options.n_gen}")
        return answers, seconds

    def _request(self, kind: Kind, address: Address, ids: list[int]) -> bytes:
        body = {
            "model": "model",
            "prompt": ids,
            "max_tokens": self.options.n_gen,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **kind.extra,
        }
        return post("/v1/completions", body, address)

    def _done(self) -> None:
        self._n_done += 1
        self._show(self._n_done)


def n_loads(options: Options, n_kinds: int) -> int:
    """How often a progress bar of these options moves."""
    in_round = n_kinds * len(options.cells) + (2 if options.n_waves else 0)
    return options.rounds * in_round


def figures(answers: Sequence[Answer], seconds: float) -> Figures:
    """Of one load."""
    gaps_ms = [1e3 * gap for answer in answers for gap in answer.gaps_s]
    percent = statistics.quantiles(gaps_ms, n=100, method="inclusive")
    return {
        "output_ts": sum(answer.n_tokens for answer in answers) / seconds,
        "first_token_ms": 1e3 * statistics.median(answer.first_s for answer in answers),
        "gap_p50_ms": percent[49],
        "gap_p95_ms": percent[94],
    }


def rows(options: Options, kinds: Sequence[Kind], samples: Samples) -> Iterator[dict[str, Any]]:
    """A row for each server and load: median and quartiles over the rounds, and how many times our
    figure is theirs, unless that is zero: tokens that come in one piece have no time between."""
    ours = kinds[0].name
    for cell in options.cells:
        for kind in kinds:
            found = samples.cells.get((kind.name, cell))
            if not found:
                continue
            row: dict[str, Any] = {"server": kind.name, "weights": kind.weights}
            row |= {"n_prompt": cell.n_prompt, "n_clients": cell.n_clients, "n_gen": options.n_gen}
            row |= {"n_requests": cell.n_requests, "n_rounds": len(found)}
            our = samples.cells[ours, cell]
            for name in FIGURES:
                low, row[name], high = quartiles([each[name] for each in found])
                row[f"{name}_quartiles"] = [low, high]
                if kind.name != ours and row[name]:
                    mine = statistics.median(each[name] for each in our)
                    row[f"{name}_ratio"] = mine / row[name]
            yield row


def overhead(samples: Samples) -> dict[str, Any] | None:
    """What the server adds to a token at 8 clients, as a share of its time in process."""
    if not samples.in_process_s:
        return None
    pairs = zip(samples.served_s, samples.in_process_s, strict=True)
    low, share, high = quartiles([served / alone - 1 for served, alone in pairs])
    return {
        "n_clients": _N_WAVE,
        "n_prompt": _N_PROMPT,
        "served_s": statistics.median(samples.served_s),
        "in_process_s": statistics.median(samples.in_process_s),
        "share": share,
        "share_quartiles": [low, high],
        "n_waves": len(samples.served_s),
    }
