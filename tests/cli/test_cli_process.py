"""The command line as a process of its own: Ctrl-C, closed pipes, terminals."""

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A shell starts what runs in the background with SIGINT ignored, and that would be inherited.
MAIN = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
MAIN += "from pyroclast.cli.main import main; main(sys.argv[1:])"
# Each step takes 0.1 s: 200 tokens are not there before a busy machine lets this process act.
SLOWLY = "import time; from pyroclast.model.model import Model; forward = Model.forward; "
SLOWLY += "Model.forward = lambda *a, **k: (time.sleep(0.1), forward(*a, **k))[1]; "


def start(*argv, slowly=False, **options):
    """Starts the command as a process of its own."""
    paths = [str(ROOT / "engine"), str(ROOT / "kernels")]
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY * slowly + MAIN, *argv],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def finish(process, stdin=None):
    out, err = process.communicate(stdin, timeout=120)
    return process.returncode, out.decode(), err.decode()


def test_invalid_utf8_in_a_real_argument():
    code, out, err = finish(start("generate", b"ab\xff"))
    assert (code, out) == (2, "")
    assert err == "pyroclast: error: the text is not valid UTF-8\n"


def test_ctrl_c_ends_quietly_with_130(model):
    process = start("generate", "x", "-m", model, "-n", "200", "--ignore-eos", slowly=True)
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "")


def test_a_closed_pipe_ends_quietly(model):
    process = start("generate", "x", "-m", model, "-n", "200", "--ignore-eos", slowly=True)
    with process.stderr:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_a_terminal_gets_timings_and_a_conversation_with_ctrl_c(model):
    """Through a pseudo-terminal: Ctrl-C stops the answer, a second one leaves."""
    ours, theirs = pty.openpty()
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "engine"), str(ROOT / "kernels")]),
        "TERM": "dumb",
    }
    argv = [sys.executable, "-c", SLOWLY + MAIN, "chat", "-m", model, "-n", "200", "--ignore-eos"]
    process = subprocess.Popen(
        argv,
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""

    def read_until(text):
        nonlocal seen
        while text not in seen:
            seen += os.read(ours, 4096)
        before, _, seen = seen.partition(text)
        return before

    try:
        read_until(b"> ")
        os.write(ours, b"hello\n")
        read_until(b"hello\r\n")
        while len(seen) < 3:  # some of the answer
            seen += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        read_until(b"[stopped]")
        read_until(b"tokens")  # the timings
        read_until(b"> ")
        # readline misses a signal between its prompt and its wait for a key: then another one.  Not
        # soon: one that meets the end of the interpreter changes the exit code.
        for _ in range(6):
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
                break
        assert process.wait(60) == 130
    finally:
        process.kill()
        os.close(ours)
