"""Encoding under a deadline that truly ends: in a process of its own, which can be killed.

For a tokenizer.json with patterns that are not known to take linear time (patterns.py).  Native
code cannot be stopped inside this process.  The child speaks JSON, a line for each request and
answer; it starts at the first request, again after each that was killed, and ends with its parent.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyroclast.errors import TokenizerError

if TYPE_CHECKING:
    import subprocess

_START_SECONDS = 60.0  # importing `tokenizers` and reading a large vocabulary
_SECONDS = 5.0
_CHARS_PER_SECOND = 100_000  # a tenth of what a linear pattern does

_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from tokenizers import AddedToken, Tokenizer
source = json.loads(sys.stdin.readline())
def load():
    loaded = Tokenizer.from_str(source)
    loaded.no_truncation()
    loaded.no_padding()
    return loaded
full, plain = load(), None
print("true", flush=True)
for line in sys.stdin:
    text, names, cuts, added = json.loads(line)
    try:
        if names is None:
            answer = full.encode(text, add_special_tokens=added).ids
        else:
            if plain is None:
                plain = load()
                plain.add_special_tokens(names)
                plain.encode_special_tokens = True
                plain.add_tokens([AddedToken(cut, normalized=False) for cut in cuts])
            cut_ids = [plain.token_to_id(cut) for cut in cuts]
            ids = plain.encode(text, add_special_tokens=added).ids
            answer = [-1 if i in cut_ids else i for i in ids]
    except BaseException as error:
        answer = str(error)[:300] or type(error).__name__
    print(json.dumps(answer), flush=True)
"""


class EncodingProcess:
    """One tokenizer in a child process.  Safe to use from several threads and after a fork."""

    def __init__(self, tokenizer_json: str, pattern: str) -> None:
        self._json = tokenizer_json
        self._pattern = pattern
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def encode(
        self, text: str, plain: Sequence[str] | None, cuts: Sequence[str], add_special_tokens: bool
    ) -> list[int]:
        """text -> token ids.  `plain`: names of tokens that are not read, and then -1 stands for
        each of `cuts`.  A TokenizerError past the deadline."""
        seconds = _SECONDS + len(text) / _CHARS_PER_SECOND
        if self._owner != os.getpid():  # in a forked process the lock may be held for ever
            self._lock, self._child, self._owner = threading.Lock(), None, os.getpid()
        with self._lock:
            try:
                child = self._started()
                answer = _ask(child, [text, plain, cuts, add_special_tokens], seconds)
            except BaseException as error:
                self._end()
                if isinstance(error, TimeoutError):
                    raise TokenizerError(self._too_slow(len(text), seconds)) from None
                if isinstance(error, OSError | EOFError | ValueError):
                    raise TokenizerError(f"the encoding process ended: {error}") from error
                raise
        if isinstance(answer, str):
            raise TokenizerError(f"the text cannot be encoded: {answer}")
        ids: list[int] = answer
        return ids

    def _too_slow(self, n_chars: int, seconds: float) -> str:
        return (
            f"cutting a text of {n_chars} characters into words took more than {seconds:.0f} s "
            f"and was stopped: tokenizer.json has the pattern {self._pattern[:100]!r}, which is "
            "slow on it"
        )

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None:
            return self._child
        if not sys.executable:
            raise TokenizerError(
                f"tokenizer.json has the pattern {self._pattern[:100]!r}, which needs a process "
                "of its own, and sys.executable names no Python"
            )
        paths = [path for path in sys.path if os.path.isabs(path)]
        import subprocess  # late: every start would pay for it, and few vocabularies need a process

        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CHILD, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"TOKENIZERS_PARALLELISM": "false"},
        )
        weakref.finalize(self, _kill, child, os.getpid())
        self._child = child
        _ask(child, self._json, _START_SECONDS)
        return child

    def _end(self) -> None:
        if self._child is not None:
            _kill(self._child, self._owner)
            self._child = None


def _kill(child: subprocess.Popen[bytes], owner: int) -> None:
    if owner == os.getpid():  # a forked copy must not end its parent's child
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _ask(child: subprocess.Popen[bytes], request: Any, seconds: float) -> Any:
    """Send one line and read one, before the deadline."""
    assert child.stdin is not None and child.stdout is not None
    end = time.monotonic() + seconds
    to_child, from_child = child.stdin.fileno(), child.stdout.fileno()
    os.set_blocking(to_child, False)
    rest = memoryview(json.dumps(request).encode() + b"\n")
    answer = bytearray()
    while not answer.endswith(b"\n"):
        poll = select.poll()
        poll.register(from_child, select.POLLIN)
        if rest:
            poll.register(to_child, select.POLLOUT)
        ready = dict(poll.poll(max(0.0, end - time.monotonic()) * 1000))
        if not ready:
            raise TimeoutError
        if to_child in ready:
            rest = rest[os.write(to_child, rest[: 1 << 16]) :]
        if from_child in ready:
            data = os.read(from_child, 1 << 16)
            if not data:
                raise EOFError(f"exit code {child.wait()}")
            answer += data
    return json.loads(answer)
