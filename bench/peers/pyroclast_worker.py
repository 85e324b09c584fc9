"""Pyroclast as a worker of bench/engine.py: the steps of `pyroclast bench`, and the ceilings."""

from dataclasses import asdict
from typing import Any

from protocol import serve

from pyroclast.lab.speed.throughput import Runner, Workload
from pyroclast.lab.speed.throughput_rows import Ceiling, Ceilings, environment, summarize


class Worker:
    """One model; every request is a method."""

    def load(self, model: str, workloads: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """Loads the model with room for the workloads; says what it is."""
        self.runner = Runner(model, [Workload(**each) for each in workloads], **options)
        self.ceilings = Ceilings(self.runner)
        about = environment()
        return {"version": f"pyroclast {about['commit']}", **about}

    def run(self, workload: dict[str, Any]) -> float:
        """Seconds of one repetition."""
        return self.runner.run(Workload(**workload))

    def logits(self) -> list[float]:
        """After the last run, of the last token of the last sequence."""
        model = self.runner.model
        found: list[float] = model.logits[model.batch.n_logits - 1].tolist()
        return found

    def ceiling(self, workload: dict[str, Any]) -> dict[str, Any] | None:
        """What the machine can do at the moment."""
        found = self.ceilings.measure(Workload(**workload))
        return asdict(found) if found else None

    def row(
        self,
        workload: dict[str, Any],
        seconds: list[float],
        seen: list[dict[str, Any] | None],
    ) -> dict[str, Any]:
        """The row that `pyroclast bench` would give for these times and ceilings."""
        ceilings = [Ceiling(**each) if each else None for each in seen]
        return summarize(self.runner, Workload(**workload), seconds, ceilings)


worker = Worker()
serve({name: getattr(worker, name) for name in ("load", "run", "logits", "ceiling", "row")})
