"""Worker for Pyroclast: the steps of `pyroclast bench`, and the limits of the machine.

Another installed Pyroclast, as a peer, is asked to `load`, `run` and give `logits`; it may be older
than this file.
"""

from dataclasses import asdict
from importlib import import_module
from typing import Any

from protocol import serve

# Where the runner is: here, and in versions before pyroclast.lab.speed.
_HOMES = ("pyroclast.lab.speed.throughput", "pyroclast.bench")


class Worker:
    """One model; every request is a method."""

    def load(self, model: str, workloads: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """Loads the model with room for the workloads; says what it is."""
        home = _first_module(_HOMES)
        self.workload = home.Workload
        self.runner = home.Runner(model, [home.Workload(**each) for each in workloads], **options)
        self.rows = _first_module([f"{name}_rows" for name in _HOMES])
        self.limits: Any = None
        about: dict[str, Any] = self.rows.environment()
        return {"version": f"pyroclast {about['commit']}", **about}

    def run(self, workload: dict[str, Any]) -> float:
        """Seconds of one repetition."""
        return float(self.runner.run(self.workload(**workload)))

    def logits(self) -> list[float]:
        """After the last run, of the last token of the last sequence."""
        model = self.runner.model
        found: list[float] = model.logits[model.batch.n_logits - 1].tolist()
        return found

    def limit(self, workload: dict[str, Any]) -> dict[str, Any] | None:
        """What the machine can do at the moment."""
        if self.limits is None:
            self.limits = self.rows.MachineLimits(self.runner)
        found = self.limits.measure(self.workload(**workload))
        return asdict(found) if found else None

    def row(
        self,
        workload: dict[str, Any],
        seconds: list[float],
        seen: list[dict[str, Any] | None],
    ) -> dict[str, Any]:
        """The row that `pyroclast bench` would give for these times and limits."""
        limits = [self.rows.MachineLimit(**each) if each else None for each in seen]
        row: dict[str, Any] = self.rows.summarize(
            self.runner, self.workload(**workload), seconds, limits
        )
        return row


def _first_module(names: Any) -> Any:
    """The first of these modules that this Pyroclast has."""
    for name in names[:-1]:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(str(error.name)):  # something else is missing, which is wrong
                raise
    return import_module(names[-1])


if __name__ == "__main__":
    worker = Worker()
    serve({name: getattr(worker, name) for name in ("load", "run", "logits", "limit", "row")})
