"""Asks /health again and again, from a process that shares no interpreter with the load.

    python -m pyroclast.lab.serving.health HOST PORT [PID]

Asks until a line comes on standard input, then writes one JSON object: percentiles in milliseconds,
how many answers there were, and how many requests failed.  With the server's process id it also
tells how much of each answer's time the server's main thread, which runs its event loop, and this
thread waited for a core (Linux's schedstat).  `own_max_ms` is the longest time less the longer of
the two waits.  The server's own step threads may cause a part of these waits.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_EVERY_S = 0.05
_LIMIT_S = 10.0


def ask(host: str, port: int) -> float | None:
    """Seconds until the answer was whole, over a connection of its own; None if none came."""
    start_s = time.perf_counter()
    try:
        with socket.create_connection((host, port), timeout=_LIMIT_S) as found:
            found.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            data = b""
            while piece := found.recv(4096):
                data += piece
    except OSError:
        return None
    return time.perf_counter() - start_s if data.startswith(b"HTTP/1.1 200 ") else None


def waited_s(thread: str) -> float:
    """Seconds that a thread, a folder of /proc, could run and had no core; 0 where nobody counts
    them."""
    try:
        return 1e-9 * int(Path(f"/proc/{thread}/schedstat").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0


def watch(
    host: str, port: int, is_over: Callable[[], bool], pid: int | None = None
) -> dict[str, Any]:
    """Asks until it is over."""
    threads = ["thread-self", *([f"{pid}/task/{pid}"] if pid is not None else [])]
    times_ms: list[float] = []
    own_ms: list[float] = []
    n_failed = 0
    while not is_over():
        before = [waited_s(thread) for thread in threads]
        seconds = ask(host, port)
        waits = [waited_s(thread) - b for thread, b in zip(threads, before, strict=True)]
        if seconds is None:
            n_failed += 1
        else:
            times_ms.append(1e3 * seconds)
            own_ms.append(1e3 * max(0.0, seconds - max(waits)))
        time.sleep(_EVERY_S)
    found: dict[str, Any] = {"n": len(times_ms), "n_failed": n_failed}
    if len(times_ms) > 1:
        percent = statistics.quantiles(times_ms, n=1000, method="inclusive")
        found |= {"p50_ms": percent[499], "p99_ms": percent[989], "p999_ms": percent[998]}
        found |= {"max_ms": max(times_ms), "n_over_100_ms": sum(t > 100 for t in times_ms)}
        if pid is not None:
            found |= {"own_max_ms": max(own_ms), "n_own_over_100_ms": sum(t > 100 for t in own_ms)}
    return found


def main() -> None:
    """Until a line comes."""
    over = threading.Event()

    def wait() -> None:
        sys.stdin.readline()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    pid = int(sys.argv[3]) if len(sys.argv) > 3 else None
    found = watch(sys.argv[1], int(sys.argv[2]), over.is_set, pid)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
