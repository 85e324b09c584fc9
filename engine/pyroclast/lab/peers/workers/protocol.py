"""The worker's end of a conversation with its client: JSON objects, one a line.

In: {"do": NAME, ...arguments}.  Out: {"ok": result} or {"error": text}.  A worker ends when its
input ends.  Needs the standard library only, since every engine has a Python of its own.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def serve(handlers: dict[str, Callable[..., Any]]) -> None:
    """Answers requests until the input ends."""
    # Libraries print where they like; what they print must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": handlers[request.pop("do")](**request)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must learn of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
