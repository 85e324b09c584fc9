"""A worker that runs no engine: it answers what its load options tell it to.

seconds: of each run, in order, the last one over and over; an "error" among them is one.  answer:
what it gives for logits.  hold_bytes: memory that it fills when it loads.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine/pyroclast/lab/peers/workers"))

from protocol import serve


class Worker:
    def load(self, model, workloads, threads, seconds, answer=None, hold_bytes=0):
        self.held = b"x" * hold_bytes
        self.seconds, self.answer = list(seconds), answer
        return {"version": "fake 1", "model": model, "n": len(workloads), "threads": threads}

    def run(self, workload, **_):
        found = self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        if found == "error":
            raise RuntimeError(f"cannot do {workload['n_gen']} tokens")
        return found

    def logits(self):
        return self.answer


worker = Worker()
serve({name: getattr(worker, name) for name in ("load", "run", "logits")})
