"""`pyroclast serve` as a process: what it prints, and its end after SIGTERM."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from demo import demo_path

HELLO = [{"role": "user", "content": "Count to a hundred."}]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """The demo model's, which `pyroclast serve` finds without being told."""
    demo_path()
    command = [*(sys.executable, "-m", "pyroclast", "serve"), "--shutdown-timeout", "4"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--no-prefix-cache"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ask_as_curl(words: list[str]) -> httpx.Response:
    """What curl would send."""
    url, data, headers = words[1], "", {}
    for flag, value in zip(words[2::2], words[3::2], strict=True):
        if flag == "-H":
            name, _, rest = value.partition(": ")
            headers[name] = rest
        else:
            assert flag == "-d"
            data = value
    return httpx.post(url, content=data, headers=headers, timeout=60)


def events(answer: httpx.Response) -> Iterator[Any]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield "DONE" if line == "data: [DONE]" else json.loads(line[6:])


def test_its_line_works_and_sigterm_loses_nothing(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert "http://127.0.0.1:" in process.stdout.readline()
    words = shlex.split(process.stdout.readline())
    assert words[0] == "curl"
    assert ask_as_curl(words).json()["choices"][0]["message"]["content"]

    url = words[1]
    body = {"messages": HELLO, "ignore_eos": True, "stream": True}
    with (
        httpx.Client(base_url=url.partition("/v1/")[0], timeout=60) as client,
        client.stream("POST", url, json=body | {"max_tokens": 8}) as short,
        client.stream("POST", url, json=body | {"max_tokens": 8000}) as long,
    ):
        of_short, of_long = events(short), events(long)
        next(of_short), next(of_long)
        process.send_signal(signal.SIGTERM)
        while client.get("/ready").status_code == 200:
            time.sleep(0.01)
        assert client.get("/health").status_code == 200
        refused = client.post(url, json={"messages": HELLO})
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "shutting_down"
        *_, last, done = of_short
        assert (last["choices"][0]["finish_reason"], done) == ("length", "DONE")
        *_, last = of_long
        assert last["error"]["code"] == "shutting_down"
    assert process.wait(30) == 0
