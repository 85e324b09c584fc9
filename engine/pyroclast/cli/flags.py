"""The flags that several commands share, and the SamplingParams that they ask for.

A command with flags of its own adds them in its own module (`add_arguments`).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from pyroclast.cli.terminal import fail
from pyroclast.errors import SamplingError

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_MAX_TOKENS = 256
MODEL_FORMS = "file, folder, name or hf:ORG/REPO[/FILE.gguf]"

_NEEDS_WEIGHTS = ("generate", "chat", "run", "eval", "score", "next", "bench")
_NEEDS_MODEL = (*_NEEDS_WEIGHTS, "tokenize")
_TAKES_TEXT = ("generate", "chat", "score", "next", "tokenize")
_ADAPTS = ("generate", "chat", "run", "eval", "score")
_SAMPLES = ("generate", "chat", "run", "eval", "next")
_WRITES_TEXT = ("generate", "chat", "run", "eval")
_KEEPS_PROMPTS = ("generate", "chat", "run")
_LIMITED = ("generate", "run", "eval")  # texts may go on for ever
# Flags that mean nothing for one token, and that no result of eval shows.
_LEFT_OUT = {
    "next": ("min-tokens", "logprobs", "structured"),
    "eval": ("logprobs", "structured"),
}
# Where a command's default is another.
_OWN_HELP = {("eval", "temperature"): "0 (default): greedy; 1: the model's own distribution"}


def _json_object(text: str) -> dict[str, Any]:
    """The value of a flag that is a JSON object; null would read as a flag that is not given."""
    import json  # late: few calls have such a flag

    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}; got {text!r:.100}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r:.100}")
    return value


# flag, type, metavar, help.  A flag that is not given leaves SamplingParams' own default.
_SAMPLING_FLAGS: list[tuple[str, Callable[[str], Any], str, str]] = [
    ("temperature", float, "T", "0: greedy; 1 (default): the model's own distribution"),
    ("top-p", float, "P", "keep the most likely tokens whose probabilities add up to P"),
    ("top-k", int, "K", "keep the K most likely tokens"),
    ("min-p", float, "P", "keep tokens at least P times as likely as the most likely one"),
    ("typical-p", float, "P", "keep tokens of typical surprise that add up to P"),
    ("top-n-sigma", float, "N", "keep logits within N standard deviations of the maximum"),
    ("repetition-penalty", float, "R", "above 1: tokens seen before become less likely"),
    ("presence-penalty", float, "X", "subtract X from the logit of every generated token"),
    ("frequency-penalty", float, "X", "subtract X for each time a token was generated"),
    ("seed", int, "N", "the same seed gives the same text"),
    ("min-tokens", int, "N", "do not end the text before N tokens"),
    ("logprobs", int, "K", "log-probabilities, and the K most likely tokens"),
    (
        "structured",
        _json_object,
        "JSON",
        'the form of the text, such as {"regex": "[0-9]+"} or {"json": {}}',
    ),
]


def add_flags(command: argparse.ArgumentParser, name: str) -> None:
    """Adds the shared flags of the command `name`."""
    if name in _TAKES_TEXT:
        _add_text(command, name)
    if name in _NEEDS_MODEL:
        command.add_argument(
            "--model", "-m", default=DEFAULT_MODEL, help=f"{MODEL_FORMS} ({DEFAULT_MODEL})"
        )
    if name in _NEEDS_WEIGHTS:
        _add_engine(command, name)
    if name in (*_NEEDS_WEIGHTS, "kernels"):
        command.add_argument(
            "--kernels", metavar="RULES", help="for example matmul.q8_0=cpp-avx2,sample=numpy"
        )
        add_frozen(command)
    if name == "kernels":
        add_device(command, "cpu")
    if name in _SAMPLES:
        _add_sampling(command, name)
    if name == "chat":
        command.add_argument("--system", metavar="TEXT", help="the system message")
        command.add_argument(
            "--no-prefix-cache", action="store_true", help="read the conversation again each turn"
        )
    if name in _KEEPS_PROMPTS:
        add_cache_dir(command)
    if name == "score":
        command.add_argument(
            "--context", metavar="TEXT", help="what comes before; only the text is scored"
        )
        command.add_argument(
            "--top", type=int, default=0, metavar="K", help="show the K most likely tokens"
        )
    if name == "bench":
        _add_bench(command)
    if name == "tokenize":
        command.add_argument("--no-special", action="store_true", help="add no BOS or EOS")


def add_model(command: argparse.ArgumentParser, note: str = "") -> None:
    """The model of a command that takes nothing else: by position, or by --model as elsewhere."""
    text = f"{MODEL_FORMS} ({DEFAULT_MODEL}){note}"
    # Suppressed: a position that is not filled would undo --model.
    command.add_argument("model", metavar="MODEL", nargs="?", default=argparse.SUPPRESS, help=text)
    command.add_argument("--model", "-m", default=DEFAULT_MODEL, help="the same")


def add_device(command: argparse.ArgumentParser, default: str) -> None:
    """The flag that says where the model runs."""
    known = "auto, cuda or cpu" if default == "auto" else "cuda or cpu"
    command.add_argument(
        "--device", default=default, metavar="WHERE", help=f"{known} (default: {default})"
    )


def add_speculation(command: argparse.ArgumentParser) -> None:
    """The flags that say where draft tokens come from."""
    command.add_argument(
        "--speculation",
        default="auto",
        metavar="HOW",
        help="try several tokens in a step: auto, suffix (where the text repeats), draft, mtp (the "
        "model's own head) or off",
    )
    command.add_argument(
        "--draft", metavar="MODEL", help="a smaller model with the same vocabulary proposes tokens"
    )


def add_cache_dir(command: argparse.ArgumentParser) -> None:
    """The flags of the folder where cached prompts outlive the process."""
    command.add_argument("--cache-dir", metavar="DIR", help="keep what prompts have computed here")
    command.add_argument(
        "--cache-dir-bytes", type=int, metavar="N", help="at most N bytes of it (default: 8 GiB)"
    )


def add_threads(command: argparse.ArgumentParser) -> None:
    """Adds --threads, whose number is checked with the other flags."""
    command.add_argument("--threads", "-t", type=_threads, metavar="N", help="default: all cores")


def _threads(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= 1024):
        raise argparse.ArgumentTypeError(f"must be between 1 and 1024, got {text:.20}")
    return int(text)


def add_frozen(command: argparse.ArgumentParser) -> None:
    """The flag that ignores tuned tables: the word `frozen` among the kernel rules."""
    command.add_argument(
        "--frozen", action="store_true", help="ignore the tuned table of this machine"
    )


def add_own_folder(command: argparse.ArgumentParser) -> None:
    """The flag that names a folder of one's own kernels."""
    text = "folder of your own variants (default: PYROCLAST_KERNEL_PATH)"
    command.add_argument("--dir", metavar="FOLDER", help=text)


def apply_frozen(args: argparse.Namespace) -> None:
    """Puts --frozen into the rules, beside those of --kernels or of the environment."""
    if getattr(args, "frozen", False):
        rules = args.kernels
        if rules is None:
            rules = os.environ.get("PYROCLAST_KERNELS", "")
        args.kernels = f"frozen,{rules}" if rules else "frozen"


def sampling_params(args: argparse.Namespace) -> Any:
    """The SamplingParams that the flags ask for; a value out of range is wrong usage."""
    from pyroclast.sampling.params import SamplingParams

    names = [flag.replace("-", "_") for flag, *_ in _SAMPLING_FLAGS]
    names += ["max_tokens", "stop", "ignore_eos"]
    flags: dict[str, Any] = {name: getattr(args, name, None) for name in names}
    given = {name: value for name, value in flags.items() if value is not None}
    if args.command in _LIMITED:
        given.setdefault("max_tokens", max(DEFAULT_MAX_TOKENS, args.min_tokens or 0))
    try:
        return SamplingParams(**given)
    except SamplingError as error:
        fail(str(error), code=2)


def _add_text(command: argparse.ArgumentParser, name: str) -> None:
    is_chat = name == "chat"
    ending = "; leave it out for a conversation" if is_chat else ""
    command.add_argument(
        "text",
        metavar="MESSAGE" if is_chat else "TEXT",
        nargs="?" if is_chat else None,
        help=f"- reads standard input, without its final newline{ending}",
    )


def add_adapters(command: argparse.ArgumentParser, *, several: bool) -> None:
    """The flag that names LoRA adapters of the model."""
    command.add_argument(
        "--adapter",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="a LoRA adapter: peft's folder or a GGUF file" + ("; may be repeated" * several),
    )


def adapter_paths(args: argparse.Namespace) -> dict[str, str]:
    """{name: path} of --adapter; ends with exit code 2 for what is none."""
    found: dict[str, str] = {}
    for text in args.adapter:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            fail(f"--adapter must be NAME=PATH, got {text!r}", code=2)
        if name in found:
            fail(f"--adapter names {name!r} twice; give each adapter its own name", code=2)
        found[name] = path
    return found


def one_adapter(args: argparse.Namespace) -> dict[str, str]:
    """The same for a command that uses one adapter, if it takes any."""
    paths = adapter_paths(args) if args.command in _ADAPTS else {}
    if len(paths) > 1:
        fail(f"--adapter may be given once here, got {', '.join(paths)}", code=2)
    return paths


def _add_engine(command: argparse.ArgumentParser, name: str) -> None:
    add_threads(command)
    if name != "bench":
        add_device(command, "auto")
    if name in _ADAPTS:
        add_adapters(command, several=False)
    command.add_argument("--compute", default="auto", metavar="HOW", help="auto or float32")
    command.add_argument(
        "--kv-dtype", default="auto", metavar="TYPE", help="auto, f32, f16, bf16 or q8_0"
    )
    if name in _WRITES_TEXT:
        add_speculation(command)


def _add_sampling(command: argparse.ArgumentParser, name: str) -> None:
    for flag, kind, metavar, text in _SAMPLING_FLAGS:
        if flag not in _LEFT_OUT.get(name, ()):
            own = _OWN_HELP.get((name, flag), text)
            command.add_argument(f"--{flag}", type=kind, metavar=metavar, help=own)
    if name == "next":
        return
    default = str(DEFAULT_MAX_TOKENS) if name in _LIMITED else "until the answer ends"
    command.add_argument(
        "-n", "--max-tokens", type=int, metavar="N", help=f"at most N tokens (default: {default})"
    )
    command.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before TEXT; may be repeated"
    )
    command.add_argument(
        "--ignore-eos", action="store_true", default=None, help="do not stop at end-of-text tokens"
    )


def _add_bench(command: argparse.ArgumentParser) -> None:
    from pyroclast.lab.speed.workload_flags import add_workload_flags

    add_workload_flags(command)
    command.add_argument(
        "-r", "--repetitions", type=int, default=5, metavar="N", help="of each row (default: 5)"
    )
    command.add_argument(
        "--peers",
        nargs="?",
        const="",
        metavar="DIR",
        help="compare with other engines: those installed, or in DIR/llama, DIR/openvino, ...",
    )
