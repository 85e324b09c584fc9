"""instructor, langchain-openai, litellm and lm-eval, each in a Python of its own, against the
server.

PYROCLAST_CLIENTS_PYTHON names a Python that has instructor, langchain-openai and litellm, and
PYROCLAST_LM_EVAL_PYTHON one that has lm_eval[api]."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from server_at import MODEL, RunningServer, serving

PEERS = Path(__file__).parents[1] / "peers"


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving({MODEL: AsyncLLM(demo_path(), embeddings=True)}) as running:
        yield running


def run(variable: str, *arguments: object) -> str:
    """What a script of tests/peers writes, run by the Python that the environment names."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("client", ["instructor", "langchain", "litellm"])
def test_a_client_works(running: RunningServer, client: str) -> None:
    run("PYROCLAST_CLIENTS_PYTHON", PEERS / f"{client}_client.py", running.url, MODEL)
