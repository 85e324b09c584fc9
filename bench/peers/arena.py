"""The engines of a comparison, loaded on one file and taking turns."""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers.client import Client, PeerError
from peers.report import best_variant, compare
from pyroclast.bench import Workload
from pyroclast.bench_rows import spread

WORKERS = Path(__file__).parent
SOURCES = [str(WORKERS.parents[1] / folder) for folder in ("engine", "kernels")]
# Peer -> its worker's script, and the settings of which the best counts: name -> (for loading,
# for each run).
Settings = dict[str, tuple[dict[str, Any], dict[str, Any]]]
PEERS: dict[str, tuple[str, Settings]] = {
    "llama.cpp": (
        "llama_worker.py",
        {
            "repack": ({"repack": True}, {"kv_unified": False}),
            "no repack": ({"repack": False}, {"kv_unified": False}),
            "repack, unified KV": ({"repack": True}, {"kv_unified": True}),
            "no repack, unified KV": ({"repack": False}, {"kv_unified": True}),
        },
    ),
    # Another installed Pyroclast: what a change is worth.
    "pyroclast": ("pyroclast_worker.py", {"default": ({}, {})}),
}
# Longer than any engine's threads keep spinning after a step.
SETTLE_S = 0.05


@dataclass
class Contender:
    """An engine with its settings: whom to ask, and what to add to each request to run."""

    peer: str
    setting: str
    client: Client
    options: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)

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

    def __init__(self, args: argparse.Namespace, workloads: list[Workload]) -> None:
        self._args, self._workloads = args, workloads
        self.peers: dict[str, Any] = {}
        self.absent: dict[str, str] = {}
        self.idle_share = 0.0
        self.least_alike = 1.0  # correlation of a peer's logits with ours

    def rows(self, model: str, label: str) -> Iterator[dict[str, Any]]:
        """A row for each workload."""
        with ExitStack() as stack:
            ours = self._ours(stack, model)
            theirs = list(self._theirs(stack, model))
            for workload in self._workloads:
                yield {"label": label, **self._measure(ours, theirs, workload)}

    def _load(self, client: Client, model: str, options: dict[str, Any]) -> Any:
        """What the worker says about itself."""
        workloads = [asdict(workload) for workload in self._workloads]
        threads = self._args.threads
        return client.ask("load", model=model, workloads=workloads, threads=threads, **options)

    def _ours(self, stack: ExitStack, model: str) -> Contender:
        args = self._args
        paths = [*SOURCES, os.environ.get("PYTHONPATH", "")]
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        client = Client(sys.executable, WORKERS / "pyroclast_worker.py", environment)
        stack.enter_context(client)
        options = {"kernels": args.kernels, "compute": args.compute, "kv_dtype": args.kv_dtype}
        self._load(client, model, options)
        return Contender("", "", client)

    def _theirs(self, stack: ExitStack, model: str) -> Iterator[Contender]:
        for peer, python in self._args.peer.items():
            script, settings = PEERS[peer]
            loaded: dict[str, Client] = {}  # settings that are loaded alike share a worker
            try:
                for setting, (options, run_options) in settings.items():
                    key = json.dumps(options)
                    if key not in loaded:
                        loaded[key] = stack.enter_context(Client(python, WORKERS / script, {}))
                        self.peers[peer] = self._load(loaded[key], model, options)
                    yield Contender(peer, setting, loaded[key], run_options)
            except PeerError as error:
                self.absent[f"{peer} on {Path(model).name}"] = str(error)

    def _measure(
        self, ours: Contender, theirs: list[Contender], workload: Workload
    ) -> dict[str, Any]:
        ours.warm_up(workload)
        theirs = [each for each in theirs if self._takes_part(each, workload)]
        contenders = [ours, *theirs]
        request = {"workload": asdict(workload)}
        ceilings = [ours.client.ask("ceiling", **request)]
        for _ in range(self._args.repetitions):
            for contender in contenders:
                contender.seconds.append(self._watched(contender, contenders, workload))
            time.sleep(SETTLE_S)
            ceilings.append(ours.client.ask("ceiling", **request))
        row = ours.client.ask("row", **request, seconds=ours.seconds, seen=ceilings)
        peers: dict[str, Any] = {}
        for contender in theirs:
            speeds = [workload.n_timed / each for each in contender.seconds]
            compared = spread(speeds) | compare(row["samples_ts"], speeds)
            compared["logits_correlation"] = statistics.correlation(ours.logits, contender.logits)
            self.least_alike = min(self.least_alike, compared["logits_correlation"])
            peers.setdefault(contender.peer, {})[contender.setting] = compared
        row["peers"] = {
            name: {"best": best_variant(variants), "variants": variants}
            for name, variants in peers.items()
        }
        return dict(row)

    def _takes_part(self, contender: Contender, workload: Workload) -> bool:
        """Warms it up, too.  A peer that cannot do a workload is left out of it."""
        if not contender.applies(workload):
            return False
        try:
            contender.warm_up(workload)
        except PeerError as error:
            name = f"{contender.peer} ({contender.setting}) in {workload.name}"
            self.absent[name] = str(error)
            return False
        return True

    def _watched(
        self, contender: Contender, contenders: list[Contender], workload: Workload
    ) -> float:
        """Runs, and notes the CPU time that the others took meanwhile."""
        time.sleep(SETTLE_S)
        others = {id(c.client): c.client for c in contenders if c.client is not contender.client}
        before, start = sum(c.cpu_s() for c in others.values()), time.perf_counter()
        seconds = contender.run(workload)
        used = sum(c.cpu_s() for c in others.values()) - before
        self.idle_share = max(self.idle_share, used / (time.perf_counter() - start))
        return seconds
