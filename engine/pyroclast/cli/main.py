"""The command `pyroclast`: arguments in, text or JSON out, one line per error.

Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted (Ctrl-C), 141 the reader of our
output went away.  Only the standard library is imported until a command really runs.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pyroclast.errors import PyroclastError, SamplingError
from pyroclast.lab.speed.workload_flags import add_workload_flags

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_MAX_TOKENS = 256

# command, of one word or two -> (where its function is, help, example).  A module whose commands
# have arguments of their own also has `add_arguments(command, name)`; it must be light to import.
COMMANDS = {
    "generate": ("text:generate", "continue a prompt", '"The capital of France is" -n 16'),
    "chat": ("chat:chat", "talk to a model, or ask it one thing", '"Why is the sky blue?"'),
    "score": ("text:score", "how likely a text is, token by token", '"Paris is in France."'),
    "next": (
        "next:next_token",
        "how the next token is chosen, stage by stage: P(next | context)",
        '"The capital of France is" --temperature 0.7 --top-p 0.9',
    ),
    "tokenize": ("text:tokenize", "the tokens of a text", '"Hello, world" --json'),
    "bench": ("bench:bench", "how fast it reads and decodes", "-p 512 -n 128 --json"),
    "bench kernels": (
        "lab:bench_kernels",
        "check and time every kernel against NumPy and the machine's limits",
        "--op norm --threads 1 --out kernels.json",
    ),
    "bench report": (
        "report:bench_report",
        "a page and pictures of what was measured, and what changed since a commit",
        "--results bench/results --against HEAD~1",
    ),
    "kernels": ("machine:kernels", "which kernel runs for each op, and why", "--json"),
    "kernels check": (
        "lab:kernels_check",
        "check one kernel on all cases, and time it beside the others",
        "norm numba",
    ),
    "kernels new": (
        "lab:kernels_new",
        "write the file of a new kernel, with a first correct loop",
        "softmax mine --tech numba --dir my_kernels",
    ),
    "tune": ("tune:tune", "find the fastest kernels of this machine", "-m model.gguf"),
    "profile": (
        "profile:profile",
        "where the time of a generation goes, and what other kernels would take",
        "model.gguf -n 32 --trace trace.json",
    ),
    "doctor": ("machine:doctor", "what this machine and this installation offer", "--json"),
}
# commands whose module adds them: all of two words, too
_OWN_ARGUMENTS = ("next", "tune", "profile", *(name for name in COMMANDS if " " in name))
_NEEDS_WEIGHTS = ("generate", "chat", "score", "next", "bench")
_NEEDS_MODEL = (*_NEEDS_WEIGHTS, "tokenize")
_TAKES_TEXT = ("generate", "chat", "score", "next", "tokenize")
_SAMPLES = ("generate", "chat", "next")
_OF_SEVERAL_TOKENS = ("min-tokens", "logprobs")  # flags without a meaning for one token

# flag, type, metavar, help; absent flags leave SamplingParams' own defaults.
_SAMPLING_FLAGS: list[tuple[str, Callable[[str], Any], str, str]] = [
    ("temperature", float, "T", "0 for greedy; 1 (default) for the model's own distribution"),
    ("top-p", float, "P", "keep the most likely tokens that make up this share"),
    ("top-k", int, "K", "keep the K most likely tokens"),
    ("min-p", float, "P", "keep tokens at least P times as likely as the best"),
    ("typical-p", float, "P", "keep tokens whose surprise is typical"),
    ("top-n-sigma", float, "N", "keep logits within N standard deviations of the best"),
    ("repetition-penalty", float, "R", "above 1: what has occurred becomes less likely"),
    ("presence-penalty", float, "X", "subtracted from the logit of what was generated"),
    ("frequency-penalty", float, "X", "the same, for each time that it was generated"),
    ("seed", int, "N", "the same seed gives the same text"),
    ("min-tokens", int, "N", "no end of text before N tokens"),
    ("logprobs", int, "K", "with --json: log-probabilities, and the K most likely tokens"),
]


class _Parser(argparse.ArgumentParser):
    """Errors as one line, like all others."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (see `{self.prog} --help`)", code=2)


def fail(message: str, code: int) -> NoReturn:
    """Ends with `pyroclast: error: ...` on stderr, in one line."""
    print("pyroclast: error:", " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


def make_parser() -> argparse.ArgumentParser:
    """The parser of every command, each with an example in its help."""
    from pyroclast import __version__

    parser = _Parser(
        prog="pyroclast",
        description="Run language models on native kernels that you can choose.",
        epilog="`pyroclast COMMAND --help` explains a command, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"pyroclast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, help_text, example) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=f"example:  pyroclast {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_arguments(command, name)
    return parser


def _add_arguments(command: argparse.ArgumentParser, name: str) -> None:
    if name in _TAKES_TEXT:
        what = "MESSAGE" if name == "chat" else "TEXT"
        command.add_argument(
            "text",
            metavar=what,
            nargs="?" if name == "chat" else None,
            help="- reads it from standard input (less one final newline)"
            + ("; without one, a conversation begins" if name == "chat" else ""),
        )
    if name in _NEEDS_MODEL:
        command.add_argument(
            "--model", "-m", default=DEFAULT_MODEL, help=f"file, folder or name ({DEFAULT_MODEL})"
        )
    if name in _NEEDS_WEIGHTS:
        command.add_argument(
            "--threads", "-t", type=int, metavar="N", help="default: all there are"
        )
        if name != "bench":
            add_device(command, "auto")
        command.add_argument("--compute", default="auto", metavar="HOW", help="auto or float32")
        command.add_argument(
            "--kv-dtype", default="auto", metavar="TYPE", help="auto, f32, f16, bf16 or q8_0"
        )
    if name in (*_NEEDS_WEIGHTS, "kernels"):
        command.add_argument(
            "--kernels", metavar="RULES", help="for instance matmul.q8_0=cpp-avx2,sample=numpy"
        )
        add_frozen(command)
    if name == "kernels":
        add_device(command, "cpu")
    if name in _SAMPLES:
        _add_sampling(command, name)
    if name == "chat":
        command.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    if name == "score":
        command.add_argument("--top", type=int, default=0, metavar="K", help="show the K likeliest")
    if name == "bench":
        _add_bench(command)
    if name == "tokenize":
        command.add_argument("--no-special", action="store_true", help="no BOS or EOS around it")
    if name in _OWN_ARGUMENTS:
        module = importlib.import_module(f"pyroclast.cli.{COMMANDS[name][0].partition(':')[0]}")
        module.add_arguments(command, name)
    what = "one JSON object a row" if name in ("bench", "bench kernels") else "one JSON object"
    command.add_argument("--json", action="store_true", help=f"{what} on standard output")


def add_device(command: argparse.ArgumentParser, default: str) -> None:
    """The flag that says where the model runs."""
    known = "auto, cuda or cpu" if default == "auto" else "cuda or cpu"
    command.add_argument(
        "--device", default=default, metavar="WHERE", help=f"{known} (default: {default})"
    )


def add_frozen(command: argparse.ArgumentParser) -> None:
    """The flag that leaves tuned tables out: the word `frozen` among the kernel rules."""
    command.add_argument(
        "--frozen", action="store_true", help="leave the tuned table of this machine out"
    )


def apply_frozen(args: argparse.Namespace) -> None:
    """Puts --frozen into the rules, beside those of --kernels or of the environment."""
    if getattr(args, "frozen", False):
        rules = args.kernels
        if rules is None:
            rules = os.environ.get("PYROCLAST_KERNELS", "")
        args.kernels = f"frozen,{rules}" if rules else "frozen"


def _add_sampling(command: argparse.ArgumentParser, name: str) -> None:
    for flag, kind, metavar, text in _SAMPLING_FLAGS:
        if name != "next" or flag not in _OF_SEVERAL_TOKENS:
            command.add_argument(f"--{flag}", type=kind, metavar=metavar, help=text)
    if name == "next":
        return
    default = str(DEFAULT_MAX_TOKENS) if name == "generate" else "until the answer ends"
    command.add_argument(
        "-n", "--max-tokens", type=int, metavar="N", help=f"tokens at most (default: {default})"
    )
    command.add_argument("--stop", action="append", metavar="TEXT", help="end before TEXT; repeat")
    command.add_argument("--ignore-eos", action="store_true", default=None, help="write on and on")


def _add_bench(command: argparse.ArgumentParser) -> None:
    add_workload_flags(command)
    command.add_argument(
        "-r", "--repetitions", type=int, default=5, metavar="N", help="of each row (default: 5)"
    )
    command.add_argument(
        "--peers",
        nargs="?",
        const="",
        metavar="DIR",
        help="other engines in turn: those installed here, or in DIR/llama, DIR/openvino, ...",
    )


def join_words(argv: Sequence[str]) -> list[str]:
    """argv with a command of two words, such as `bench kernels`, as one argument."""
    words = " ".join(argv[:2])
    return [words, *argv[2:]] if words in COMMANDS else list(argv)


def sampling_params(args: argparse.Namespace) -> Any:
    """The SamplingParams that the flags ask for; one out of range is wrong usage."""
    from pyroclast.sampling.params import SamplingParams

    names = [flag.replace("-", "_") for flag, *_ in _SAMPLING_FLAGS]
    names += ["max_tokens", "stop", "ignore_eos"]
    flags: dict[str, Any] = {name: getattr(args, name, None) for name in names}
    given = {name: value for name, value in flags.items() if value is not None}
    if args.command == "generate":
        given.setdefault("max_tokens", max(DEFAULT_MAX_TOKENS, args.min_tokens or 0))
    try:
        return SamplingParams(**given)
    except SamplingError as error:
        fail(str(error), code=2)


def read_text(text: str) -> str:
    """The argument, or standard input for "-"; bytes that are no UTF-8 are wrong usage."""
    if text == "-":
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            fail(f"standard input is not UTF-8: byte {error.start} is wrong", code=2)
        text = text.removesuffix("\n").removesuffix("\r")
    # Python hands over bytes of an argument that are no UTF-8 as lone surrogates.
    if any("\ud800" <= char <= "\udfff" for char in text):
        fail("the text is not valid UTF-8", code=2)
    return text


def write(text: str = "", end: str = "\n") -> None:
    """To standard output, at once: streams are watched."""
    print(text, end=end, flush=True)


def colour(text: str, code: str, stream: Any = None) -> str:
    """`text` in an ANSI colour, on a terminal whose owner wants colours."""
    stream = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits."""
    try:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character must not end the answer.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        args = make_parser().parse_args(join_words(sys.argv[1:] if argv is None else argv))
        apply_frozen(args)
        module, _, function = COMMANDS[args.command][0].partition(":")
        getattr(importlib.import_module(f"pyroclast.cli.{module}"), function)(args)
        sys.stdout.flush()
    except PyroclastError as error:
        fail(str(error), code=1)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        # What Python still holds for the closed pipe goes nowhere, instead of into a complaint.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    raise SystemExit(0)
