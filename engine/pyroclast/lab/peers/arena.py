"""The engines of a comparison, loaded on one file and taking turns."""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

from pyroclast.lab.peers.client import WORKERS, Client, PeerError
from pyroclast.lab.peers.options import CompareOptions
from pyroclast.lab.peers.report import best_variant, compare
from pyroclast.lab.peers.table import PEERS, worker_of
from pyroclast.lab.speed.process import python_path
from pyroclast.lab.speed.throughput import Workload
from pyroclast.lab.speed.throughput_rows import spread

# An engine's threads keep spinning for a while after a step, some for a fifth of a second.  A turn
# begins when the other engines take less than this share of a core, or after so many looks.
SETTLE_S, REST, MAX_LOOKS = 0.05, 0.02, 10
# Correlation of logits below which an engine does not compute this model, whatever its speed.
NONSENSE = 0.5


@dataclass
class Contender:
    """An engine with its settings: the client of its worker, and what to add to each `run`."""

    peer: str
    setting: str
    client: Client
    options: dict[str, Any] = field(default_factory=dict)
    load_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    # After the last token of the last sequence.  An engine may give its likeliest token alone, or
    # None where it has read other tokens than ours.
    logits: list[float] | int | None = None

    def applies(self, workload: Workload) -> bool:
        """A cache shared by all sequences makes no difference to one."""
        return workload.n_batch > 1 or not self.options.get("kv_unified")

    def warm_up(self, workload: Workload) -> None:
        self.seconds.clear()
        self.run(workload)
        self.logits = self.client.ask("logits")

    def run(self, workload: Workload) -> float:
        return float(self.client.ask("run", workload=asdict(workload), **self.options))


class Arena:
    """All contenders on one file; use `rows`."""

    def __init__(self, options: CompareOptions, workloads: Sequence[Workload]) -> None:
        self._options, self._workloads = options, workloads
        self.peers: dict[str, Any] = {}
        self.absent: dict[str, str] = dict(options.missing)
        self.idle_share = 0.0
        self.least_alike = 1.0  # correlation of a peer's logits with ours
        # Share of the vocabulary that our logits rank above a peer's choice.
        self.worst_rank = 0.0

    def rows(
        self, model: str, label: str, file_of: Callable[[str], str | None]
    ) -> Iterator[dict[str, Any]]:
        """A row for each workload.  file_of(peer): what a peer loads, None if it does not take part
        here; PeerError if it cannot."""
        with ExitStack() as stack:
            ours = self.ours(stack, model)
            theirs = list(self.theirs(stack, file_of, Path(model).name))
            for workload in self._workloads:
                yield {"label": label, **self._measure(ours, theirs, workload)}

    def _load(self, client: Client, model: str, options: dict[str, Any]) -> tuple[Any, float]:
        """(What the worker says about itself, seconds)."""
        workloads = [asdict(workload) for workload in self._workloads]
        threads, start = self._options.threads, time.perf_counter()
        about = client.ask("load", model=model, workloads=workloads, threads=threads, **options)
        return about, time.perf_counter() - start

    def ours(self, stack: ExitStack, model: str) -> Contender:
        """Pyroclast itself, loaded."""
        ours = self._options
        client = Client(sys.executable, WORKERS / PEERS["pyroclast"].script, python_path())
        stack.enter_context(client)
        options = {"kernels": ours.kernels, "compute": ours.compute, "kv_dtype": ours.kv_dtype}
        return Contender("", "", client, load_s=self._load(client, model, options)[1])

    def theirs(
        self, stack: ExitStack, file_of: Callable[[str], str | None], name: str
    ) -> Iterator[Contender]:
        """Each peer in each of its settings, loaded; one that cannot load is noted as absent."""
        for peer in self._options.peers:
            loaded: dict[str, Contender] = {}
            try:
                file = file_of(peer)
            except PeerError as error:
                self.absent[f"{peer} on {name}"] = str(error)
                continue
            failed: dict[str, str] = {}
            for setting in PEERS[peer].settings if file else ():
                try:
                    yield self.contender(stack, peer, setting, str(file), loaded)
                except PeerError as error:
                    failed[f"{peer} ({setting}) on {name}"] = str(error)
            if len(failed) == len(PEERS[peer].settings) and len(set(failed.values())) == 1:
                failed = {f"{peer} on {name}": next(iter(failed.values()))}
            self.absent |= failed

    def contender(
        self, stack: ExitStack, peer: str, setting: str, file: str, loaded: dict[str, Contender]
    ) -> Contender:
        """A peer in one of its settings.  Settings that load alike share a worker."""
        options, run_options = PEERS[peer].settings[setting]
        key = json.dumps(options)
        if key not in loaded:
            python, environment = worker_of(peer, self._options.peers[peer])
            client = Client(python, WORKERS / PEERS[peer].script, environment)
            stack.enter_context(client)
            self.peers[peer], seconds = self._load(client, file, options)
            loaded[key] = Contender(peer, setting, client, load_s=seconds)
        return Contender(peer, setting, loaded[key].client, run_options, loaded[key].load_s)

    def _measure(
        self, ours: Contender, theirs: list[Contender], workload: Workload
    ) -> dict[str, Any]:
        theirs = self._ready(ours, theirs, workload)
        request = {"workload": asdict(workload)}
        limits = [ours.client.ask("limit", **request)]
        for _ in range(self._options.repetitions):
            take_turn = partial(self._take_turn, workload, [ours, *theirs])
            take_turn(ours)
            theirs = [each for each in theirs if self._takes_part(each, workload, take_turn)]
            time.sleep(SETTLE_S)
            limits.append(ours.client.ask("limit", **request))
        row = ours.client.ask("row", **request, seconds=ours.seconds, seen=limits)
        peers: dict[str, Any] = {}
        for contender in theirs:
            speeds = [workload.n_timed / each for each in contender.seconds]
            compared = spread(speeds) | compare(row["samples_ts"], speeds)
            compared |= self._likeness(ours, contender)
            peers.setdefault(contender.peer, {})[contender.setting] = compared
        row["peers"] = {
            name: {"best": best_variant(variants), "variants": variants}
            for name, variants in peers.items()
        }
        return dict(row)

    def _ready(
        self, ours: Contender, theirs: list[Contender], workload: Workload
    ) -> list[Contender]:
        """The peers that apply to the workload, can run it, and computed what we did."""
        ours.warm_up(workload)
        theirs = [each for each in theirs if each.applies(workload)]
        warm_up = methodcaller("warm_up", workload)
        theirs = [each for each in theirs if self._takes_part(each, workload, warm_up)]
        check = partial(self._check, ours)
        return [each for each in theirs if self._takes_part(each, workload, check)]

    def _takes_part(
        self, contender: Contender, workload: Workload, action: Callable[[Contender], None]
    ) -> bool:
        """Whether a peer could do the action.  One that cannot is left out of the workload."""
        try:
            action(contender)
        except PeerError as error:
            name = f"{contender.peer} ({contender.setting}) in {workload.name}"
            self.absent[name] = str(error)
            return False
        return True

    def _check(self, ours: Contender, other: Contender) -> None:
        """A result is checked before it is timed: PeerError for one that is not this model's."""
        found = self._likeness(ours, other).get("logits_correlation", 1.0)
        if found < NONSENSE:
            raise PeerError(f"its logits correlate with ours by {found:.3f}")

    def _likeness(self, ours: Contender, other: Contender) -> dict[str, float]:
        """How well a peer's logits agree with ours, which shows that it read the same weights and
        tokens."""
        mine, its = ours.logits, other.logits
        assert isinstance(mine, list)
        if its is None:
            return {}
        if isinstance(its, int):
            rank = sum(each > mine[its] for each in mine)
            self.worst_rank = max(self.worst_rank, rank / len(mine))
            return {"choice_rank": rank}
        try:
            # Some engines pad the vocabulary.
            correlation = statistics.correlation(mine, its[: len(mine)])
        except statistics.StatisticsError:  # all logits are the same number
            correlation = 0.0
        if math.isnan(correlation):
            correlation = 0.0
        if PEERS[other.peer].reads == "gguf":  # other engines round the weights again
            self.least_alike = min(self.least_alike, correlation)
        return {"logits_correlation": correlation}

    def _take_turn(
        self, workload: Workload, contenders: list[Contender], contender: Contender
    ) -> None:
        """Runs when the other engines rest, and notes the CPU time that they took meanwhile."""
        others = {id(c.client): c.client for c in contenders if c.client is not contender.client}
        idle = list(others.values())
        for _ in range(MAX_LOOKS):
            if _cpu_share(idle, lambda: time.sleep(SETTLE_S))[1] < REST:
                break
        seconds, share = _cpu_share(idle, lambda: contender.run(workload))
        contender.seconds.append(seconds)
        self.idle_share = max(self.idle_share, share)


def _cpu_share(clients: list[Client], action: Callable[[], Any]) -> tuple[Any, float]:
    """(What the action returns, the share of a core that the clients' workers took meanwhile)."""
    before, start = sum(each.cpu_s() for each in clients), time.perf_counter()
    found = action()
    used = sum(each.cpu_s() for each in clients) - before
    return found, used / (time.perf_counter() - start)
