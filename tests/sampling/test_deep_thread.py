"""Compiling in a thread of its own: results, deadlines, and grammars that recurse deeply."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pyroclast.errors import QueueFullError, SamplingError
from pyroclast.sampling import deep_thread, grammar
from pyroclast.sampling.deep_thread import DeadlineError, run_deep
from pyroclast.sampling.grammar import GrammarCompiler

TESTS = Path(__file__).parents[1]


def compiler() -> GrammarCompiler:
    tokens = [*(bytes([i]) for i in range(256)), b"<eos>"]
    return GrammarCompiler(
        tokens, lambda text: list(text.encode()), special_ids=[256], eos_ids=[256], n_rows=257
    )


def chain(n: int) -> dict[str, str]:
    """A grammar of n rules, each of which refers to the next."""
    rules = [f'a{i}: a{i + 1} | "x"' for i in range(n)]
    return {"grammar": "\n".join(["start: a0", *rules, f'a{n}: "y"'])}


def test_the_result_and_the_error_come_back() -> None:
    before = threading.stack_size()
    assert run_deep(lambda: 3, 10) == 3
    with pytest.raises(ZeroDivisionError):
        run_deep(lambda: 1 // 0, 10)
    assert threading.stack_size() == before


def test_a_deadline_ends_the_wait_and_a_few_may_be_late() -> None:
    release = threading.Event()
    try:
        for _ in range(deep_thread._MAX_RUNNING):
            with pytest.raises(DeadlineError):
                run_deep(lambda: release.wait(30), 0.05)
        start_s = time.monotonic()
        with pytest.raises(QueueFullError, match="try again later"):
            run_deep(lambda: 3, 0.05)
        assert time.monotonic() - start_s < 10
    finally:
        release.set()
    assert run_deep(lambda: 3, 10) == 3


def test_a_grammar_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = compiler()
    assert grammars.matcher({"regex": "a"})
    monkeypatch.setattr(grammar, "COMPILE_S", 0.01)
    with pytest.raises(SamplingError, match=r"cannot be compiled: it takes longer than 0\.01 sec"):
        grammars.matcher(chain(1500))


@pytest.mark.parametrize("kind", ["rules", "refs"])
def test_a_chain_of_rules_does_not_end_the_process(kind: str) -> None:
    """llguidance recurses along it: on a usual stack that was a segmentation fault."""
    code = f"""
from sampling.test_deep_thread import chain, compiler
found = chain(3000)
if {kind!r} == "refs":
    import json
    of = lambda i: {{"type": "array", "items": {{"$ref": f"#/$defs/{{i}}"}}}}
    defs = {{str(i): of(i + 1) for i in range(6000)}} | {{"6000": {{"type": "integer"}}}}
    found = {{"json": json.dumps({{"$ref": "#/$defs/0", "$defs": defs}})}}
try:
    compiler().matcher(found).forced()
except ValueError as error:
    print(error)
print("alive")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert done.stdout.endswith("alive\n")
