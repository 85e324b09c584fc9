"""The command look: it serves the page on a free port, and opens it in a browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tiny import CONFIGS, random_weights, write_gguf


@pytest.mark.parametrize("flags", [["--json"], ["--no-browser"]])
def test_look_opens_the_page_that_it_serves(
    tmp_path: Path, child_paths: None, flags: list[str]
) -> None:
    model = write_gguf(tmp_path / "m.gguf", CONFIGS["llama"], random_weights(CONFIGS["llama"]))
    runs, opened, browser = tmp_path / "runs", tmp_path / "opened", tmp_path / "browser"
    (runs / "first").mkdir(parents=True)
    (runs / "first" / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "pyroclast", "look", str(model), "--training", str(runs)]
    environment = os.environ | {"BROWSER": str(browser)}
    with subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = json.loads(line)["look"] if "--json" in flags else line.split()[2]
            assert url.endswith("/look/") and ":8000/" not in url
            assert httpx.get(url, timeout=60).text.startswith("<!doctype html>")
            answer = httpx.get(f"{url}api/meta", timeout=60).json()
            assert answer["model"] == "m"
            assert answer["can_embed"] is True and answer["training"] == ["first"]
            answer = httpx.post(f"{url}api/training", json={"run": "first"}, timeout=60).json()
            assert answer["steps"] == [1] and answer["loss"] == [2.5]
            assert answer["tokens_per_s"] == [None] and answer["learning"] is None
            answer = httpx.post(f"{url}api/training", json={"run": "../first"}, timeout=60)
            assert answer.status_code == 404 and "there is: first" in answer.text
            until_s = time.monotonic() + 60
            while "--json" in flags and not opened.exists() and time.monotonic() < until_s:
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert process.returncode in (0, 130)
    if "--json" in flags:
        assert opened.read_text().strip() == url
    else:
        assert not opened.exists()
