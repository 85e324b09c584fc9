"""The command `pyroclast`: arguments in, text or JSON out, one line per error.

Exit codes: 0 success, 1 an error, 2 wrong usage, 130 interrupted (Ctrl-C), 141 the reader closed
our output.  Only the standard library is imported until a command runs.
"""

from __future__ import annotations

import argparse
import importlib
import io
import signal
import sys
import types
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from pyroclast.cli.flags import add_flags, apply_frozen
from pyroclast.cli.terminal import discard, fail, open_streams, write
from pyroclast.errors import PyroclastError

# command, of one word or two -> (module:function, help, example)
COMMANDS = {
    "generate": ("text:generate", "continue a prompt", '"The capital of France is" -n 16'),
    "chat": ("chat:chat", "chat with a model, or ask one question", '"Why is the sky blue?"'),
    "run": (
        "run:run",
        "answer a file of requests, one JSON object a line, and resume where a run ended",
        "questions.jsonl --out answers.jsonl -n 64 --temperature 0",
    ),
    "eval": (
        "eval:evaluate",
        "how many items of a task a model gets right, or the perplexity of a text",
        "task.jsonl -m model.gguf --compute float32",
    ),
    "score": ("text:score", "how likely a text is, token by token", '"Paris is in France."'),
    "next": (
        "next:next_token",
        "how the next token is chosen, stage by stage: P(next | context)",
        '"The capital of France is" --temperature 0.7 --top-p 0.9',
    ),
    "look": (
        "look:look",
        "a page in the browser that shows how the next token is picked",
        "model.gguf",
    ),
    "serve": (
        "serve:serve",
        "answer over HTTP, as OpenAI's and Anthropic's APIs do",
        "model.gguf --port 8000 --api-key-file keys.txt",
    ),
    "info": ("info:info", "what a model file holds, and what it needs", "model.gguf"),
    "convert": (
        "convert:convert",
        "write a model as a GGUF file, in another format",
        "folder model-q4_k_m.gguf --to q4_k_m",
    ),
    "tokenize": ("text:tokenize", "the tokens of a text", '"Hello, world" --json'),
    "bench": ("bench:bench", "speed on prompts and at decoding", "-p 512 -n 128 --json"),
    "bench kernels": (
        "lab:bench_kernels",
        "check and time every kernel against NumPy and the machine's limits",
        "--op norm --threads 1 --out kernels.json",
    ),
    "bench report": (
        "report:bench_report",
        "an HTML page and charts of the results, and what changed since a commit",
        "--results bench/results --against HEAD~1",
    ),
    "kernels": ("kernels:kernels", "which kernel runs for each op, and why", "matmul.q4_0"),
    "kernels check": (
        "lab:kernels_check",
        "check one kernel on every case, and time it beside the others",
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
    "train tokenizer": (
        "train:train_tokenizer",
        "train a byte-level BPE vocabulary on text",
        "text.txt --out vocabulary --vocab-size 4096",
    ),
    "train pretrain": (
        "train:train_pretrain",
        "train a model on text, from random weights",
        "text.txt --out run --steps 1000",
    ),
    "train finetune": (
        "train:train_finetune",
        "train a model on examples: its weights, or a LoRA adapter",
        "model.gguf examples.jsonl --out run --method lora",
    ),
    "train prefer": (
        "train:train_prefer",
        "train a model on pairs of answers of which one was preferred (DPO)",
        "model.gguf pairs.jsonl --out run",
    ),
    "train reward": (
        "train:train_reward",
        "train a model that tells preferred answers from others",
        "model.gguf pairs.jsonl --out run",
    ),
    "train rl": (
        "train:train_rl",
        "train a model for a reward (GRPO), on rollouts by Pyroclast",
        "model.gguf prompts.jsonl --reward length:20 --out run",
    ),
    "rate": (
        "rate:rate",
        "a page that shows two answers and stores which one a person prefers",
        "model.gguf prompts.jsonl --ratings ratings.sqlite",
    ),
    "doctor": ("machine:doctor", "what this machine and this installation offer", "--json"),
}
# Commands whose module has `add_arguments(command, name)`.  Such a module must be light to import.
_OF_TWO_WORDS = tuple(name for name in COMMANDS if " " in name)
_OWN_ARGUMENTS = (
    "next",
    "run",
    "eval",
    "kernels",
    "tune",
    "profile",
    "serve",
    "look",
    "info",
    "convert",
    "rate",
    *_OF_TWO_WORDS,
)


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (see `{self.prog} --help`)", code=2)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and version go to standard output; argparse would ignore that they cannot."""
        del file
        write(message, end="")


def make_parser(names: Collection[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of these commands, each with an example in its help."""
    from pyroclast import __version__

    parser = _Parser(
        prog="pyroclast",
        description="Run language models on native kernels that you can choose.",
        epilog="`pyroclast COMMAND --help` explains a command, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"pyroclast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in names:
        _, help_text, example = COMMANDS[name]
        command = commands.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=f"example:  pyroclast {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_flags(command, name)
        if name in _OWN_ARGUMENTS:
            _module_of(name).add_arguments(command, name)
        rows = name in ("bench", "bench kernels") or name.startswith("train ")
        rows = rows and name != "train tokenizer"
        what = "one JSON object a row" if rows else "one JSON object"
        command.add_argument("--json", action="store_true", help=f"{what} on standard output")
    return parser


def join_words(argv: Sequence[str]) -> list[str]:
    """argv with a command of two words, such as `bench kernels`, joined into one argument."""
    words = " ".join(argv[:2])
    return [words, *argv[2:]] if words in COMMANDS else list(argv)


def _parsed(argv: list[str]) -> argparse.Namespace:
    """The arguments of a command; what it does not know points to its own help."""
    # All parsers together take 40 ms to make.  What is no command needs them, to say what there is.
    names = argv[:1] if argv and argv[0] in COMMANDS else COMMANDS
    args, unknown = make_parser(names).parse_known_args(argv)
    if unknown:
        text = f"unrecognized arguments: {' '.join(unknown)}"
        fail(f"{text} (see `pyroclast {args.command} --help`)", code=2)
    return args


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits."""
    open_streams()
    try:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character must not end the answer.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        args = _parsed(join_words(sys.argv[1:] if argv is None else argv))
        apply_frozen(args)
        function = COMMANDS[args.command][0].partition(":")[2]
        getattr(_module_of(args.command), function)(args)
        write(end="")
    except PyroclastError as error:
        fail(str(error), code=1, notes=getattr(error, "__notes__", ()))
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        discard(sys.stdout)
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:  # of a file that a flag names, mostly
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        fail(reason, code=1)
    raise SystemExit(0)


def _module_of(name: str) -> types.ModuleType:
    """The module of a command, imported only when it is needed: some are slow to import."""
    return importlib.import_module(f"pyroclast.cli.{COMMANDS[name][0].partition(':')[0]}")
