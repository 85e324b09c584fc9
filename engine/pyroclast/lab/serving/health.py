"""Asks /health again and again, from a process that shares no interpreter with the load.

    python -m pyroclast.lab.serving.health HOST PORT

Asks until a line comes on standard input, then writes one JSON object: percentiles in milliseconds,
how many answers there were, and how many requests failed.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
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


def watch(host: str, port: int, is_over: Callable[[], bool]) -> dict[str, Any]:
    """Asks until it is over."""
    times_ms: list[float] = []
    n_failed = 0
    while not is_over():
        seconds = ask(host, port)
        if seconds is None:
            n_failed += 1
        else:
            times_ms.append(1e3 * seconds)
        time.sleep(_EVERY_S)
    found: dict[str, Any] = {"n": len(times_ms), "n_failed": n_failed}
    if len(times_ms) > 1:
        percent = statistics.quantiles(times_ms, n=1000, method="inclusive")
        found |= {"p50_ms": percent[499], "p99_ms": percent[989], "p999_ms": percent[998]}
        found |= {"max_ms": max(times_ms), "n_over_100_ms": sum(t > 100 for t in times_ms)}
    return found


def main() -> None:
    """Until a line comes."""
    over = threading.Event()

    def wait() -> None:
        sys.stdin.readline()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    found = watch(sys.argv[1], int(sys.argv[2]), over.is_set)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
