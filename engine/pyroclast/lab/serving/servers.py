"""The servers of a comparison: how each one is started, and what it is asked for."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pyroclast.lab.serving.client import Address, LoadError
from pyroclast.lab.speed.process import end_group, inherited_path, isolated, python_command

HOST = "127.0.0.1"
_START_S = 600.0  # vLLM compiles at its first start
_POLL_S = 0.1
_N_LAST_LINES = 5
_PROBE_S = 5.0


@dataclass(frozen=True)
class Plan:
    """What a server has to be ready for."""

    threads: int
    n_clients: int
    max_tokens: int  # of a prompt and its answer


@dataclass(frozen=True)
class Kind:
    """A server.  command(port, plan) starts it; `extra` goes into every request."""

    name: str
    weights: str  # in words
    command: Callable[[int, Plan], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""


def pyroclast(model: Path, format: str) -> Kind:
    """Ours, of this very Python; like the others without a prefix cache and without drafts."""

    def command(port: int, plan: Plan) -> list[str]:
        flags = ["--port", str(port), "--threads", str(plan.threads)]
        flags += ["--max-seqs", str(max(plan.n_clients, 8)), "--served-model-name", "model"]
        flags += ["--no-prefix-cache", "--speculation", "off"]
        return python_command("-m", "pyroclast", "serve", str(model), *flags)

    return Kind("Pyroclast", format, command, inherited_path())


def llama_server(binary: str, model: Path, format: str) -> Kind:
    """llama.cpp's: a slot for each client, all of which share one cache, and no prompt kept."""

    def command(port: int, plan: Plan) -> list[str]:
        n_slots = plan.n_clients
        threads = str(plan.threads)
        flags = ["-m", str(model), "--host", HOST, "--port", str(port), "-np", str(n_slots)]
        flags += ["-c", str(n_slots * plan.max_tokens), "--kv-unified", "-t", threads]
        flags += ["-tb", threads, "-fa", "on", "--cont-batching", "--no-cache-prompt"]
        return [binary, *flags, "--cache-ram", "0", "--no-webui", "-lv", "1"]

    extra = {"cache_prompt": False}
    return Kind("llama-server", format, command, extra=extra, version=_said(binary, "--version"))


def vllm(python: str, folder: Path) -> Kind:
    """vLLM's, in bf16, with its threads bound to the cores; without its prefix cache."""

    def command(port: int, plan: Plan) -> list[str]:
        flags = ["--model", str(folder), "--host", HOST, "--port", str(port)]
        flags += ["--dtype", "bfloat16", "--max-model-len", str(plan.max_tokens)]
        flags += ["--max-num-seqs", str(max(plan.n_clients, 8)), "--no-enable-prefix-caching"]
        flags += ["--served-model-name", "model", "--uvicorn-log-level", "warning"]
        return [python, "-m", "vllm.entrypoints.openai.api_server", *flags]

    cores = sorted(os.sched_getaffinity(0))
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    version = _said(python, "-c", "import vllm; print('version:', vllm.__version__)")
    return Kind("vLLM", "bf16", command, environment, version=version)


def _said(*command: str) -> str:
    """The last line that a command printed with its version in it; LoadError if it cannot run."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_START_S, cwd="/"
        )
    except OSError as error:
        raise LoadError(f"{command[0]}: {error.strerror}") from error
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("version")), "") or lines[-1]


def exit_on_sigterm() -> None:
    """SIGTERM ends this process as Ctrl-C does, so that the servers that it started end, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        return int(bound.getsockname()[1])


class Running:
    """A started server that answers; use as a context manager.  At its end it is killed."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], port: int) -> None:
        self.address: Address = (HOST, port)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `stop`
        try:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                env=isolated(environment),
                start_new_session=True,
            )
        except OSError as error:
            self._output.close()
            raise LoadError(f"{command[0]}: {error.strerror}") from error

    def wait_ready(self, limit_s: float = _START_S) -> float:
        """Seconds until /health answered 200; LoadError if the server ended, or took too long."""
        start_s = time.monotonic()
        while not healthy(self.address):
            if self.process.poll() is not None:
                raise LoadError(f"the server ended with {self.process.returncode}: {self.said()}")
            if time.monotonic() - start_s > limit_s:
                raise LoadError(f"the server was not ready within {limit_s:g} s: {self.said()}")
            time.sleep(_POLL_S)
        return time.monotonic() - start_s

    def said(self) -> str:
        """The last lines that the server printed."""
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-_N_LAST_LINES:])

    def stop(self) -> None:
        """Kills the server and all that it started."""
        end_group(self.process)
        self._output.close()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self.stop()


def healthy(address: Address, limit_s: float = _PROBE_S) -> bool:
    """Whether GET /health answers 200."""
    connection = http.client.HTTPConnection(*address, timeout=limit_s)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def started(kind: Kind, plan: Plan) -> Running:
    """A server of that kind; it may not answer yet."""
    port = free_port()
    return Running(kind.command(port, plan), kind.environment, port)
