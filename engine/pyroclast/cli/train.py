"""The commands train ...: each runs one recipe of pyroclast.train, whose settings are its flags."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.cli.terminal import counted, fail, warn, write
from pyroclast.errors import TrainingError
from pyroclast.train.preference_settings import PreferSettings, RewardSettings, RlSettings
from pyroclast.train.settings import (
    FinetuneSettings,
    PretrainSettings,
    Settings,
    TokenizerSettings,
)

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from pyroclast.train.log import OnLine
    from pyroclast.train.result import Result

_TEXTS = ("texts", "TEXT", "+", "files of plain text, UTF-8")
_DATA = (
    'a line each: {"prompt": ..., "completion": ...} or {"messages": [...]}; without it the task '
    "is to write 480 sentences as JSON"
)
# command -> its settings, and its arguments by position: name, metavar, nargs, help
_RECIPES: dict[str, tuple[type[Settings], list[tuple[str, str, str | None, str]]]] = {
    "train tokenizer": (
        TokenizerSettings,
        [_TEXTS],
    ),
    "train pretrain": (
        PretrainSettings,
        [_TEXTS],
    ),
    "train finetune": (
        FinetuneSettings,
        [
            ("model", "MODEL", None, "a GGUF file, a Hugging Face folder, or a model's name"),
            (
                "data",
                "DATA.jsonl",
                "?",
                _DATA,
            ),
        ],
    ),
}


_MODEL = ("model", "MODEL", None, "a GGUF file, a Hugging Face folder, or a model's name")
_PAIRS = (
    "pairs",
    "PAIRS.jsonl",
    None,
    'a line each: {"prompt": ..., "chosen": ..., "rejected": ...}, as `rate` exports',
)
_RECIPES |= {
    "train prefer": (PreferSettings, [_MODEL, _PAIRS]),
    "train reward": (RewardSettings, [_MODEL, _PAIRS]),
    "train rl": (
        RlSettings,
        [_MODEL, ("prompts", "PROMPTS.jsonl", None, 'a line each: {"prompt": ...}')],
    ),
}


def add_arguments(command: ArgumentParser, name: str) -> None:
    """What the recipe reads, where it writes, and a flag for each of its settings."""
    settings, positions = _RECIPES[name]
    for dest, metavar, nargs, text in positions:
        command.add_argument(dest, metavar=metavar, nargs=nargs, help=text)
    resumes = "" if name == "train tokenizer" else "; the same command resumes the run in it"
    command.add_argument(
        "--out", required=True, metavar="DIR", type=Path, help=f"the folder to write{resumes}"
    )
    if name == "train pretrain":
        text = "a folder or model whose tokenizer is used (default: one trained on the text)"
        command.add_argument("--tokenizer", metavar="MODEL", help=text)
    if name == "train rl":
        text = "length:N (words), word:TEXT, json, or the folder of a reward model"
        command.add_argument("--reward", required=True, metavar="MODEL|FUNCTION", help=text)
    for each in fields(settings):
        kind = type(each.default)
        shown = " or ".join(each.metadata["choices"]) or each.metadata["help"]
        if each.metadata["choices"]:
            shown = f"{each.metadata['help']}: {shown}"
        command.add_argument(
            f"--{each.name.replace('_', '-')}",
            type=kind,
            default=each.default,
            metavar={int: "N", float: "X"}.get(kind, "HOW"),
            help=f"{shown} (default: {each.default})",
        )


def settings_of(args: Namespace) -> Any:
    """The recipe's settings; a value out of range is wrong usage."""
    kind = _RECIPES[args.command][0]
    try:
        return kind(**{each.name: getattr(args, each.name) for each in fields(kind)})
    except TrainingError as error:
        name, _, rest = str(error).partition(" ")
        fail(f"--{name.replace('_', '-')} {rest}", code=2)


def train_tokenizer(args: Namespace) -> None:
    """Writes the vocabulary, and says how large it is."""
    from pyroclast.text.tokenizer import Tokenizer
    from pyroclast.train.vocabulary import tokenizer

    path = tokenizer(args.texts, args.out, settings_of(args))
    size = Tokenizer.from_folder(path).vocab_size
    if args.json:
        write(json.dumps({"path": str(path), "vocab_size": size}))
    else:
        write(f"{path}: {counted(size, 'token')}")


def train_pretrain(args: Namespace) -> None:
    """Trains a model from random weights."""
    from pyroclast.train.pretraining import pretrain

    settings = settings_of(args)
    run_recipe(
        args,
        lambda on_line: pretrain(
            args.texts, args.out, settings, tokenizer=args.tokenizer, on_line=on_line
        ),
    )


def train_finetune(args: Namespace) -> None:
    """Trains a model on examples."""
    from pyroclast.train.finetuning import finetune

    settings = settings_of(args)
    run_recipe(
        args,
        lambda on_line: finetune(args.model, args.data, args.out, settings, on_line=on_line),
    )


def train_prefer(args: Namespace) -> None:
    """Trains a model on preferred answers."""
    from pyroclast.train.preferences import prefer

    settings = settings_of(args)
    run_recipe(
        args, lambda on_line: prefer(args.model, args.pairs, args.out, settings, on_line=on_line)
    )


def train_reward(args: Namespace) -> None:
    """Trains a reward model."""
    from pyroclast.train.reward_model import reward

    settings = settings_of(args)
    run_recipe(
        args, lambda on_line: reward(args.model, args.pairs, args.out, settings, on_line=on_line)
    )


def train_rl(args: Namespace) -> None:
    """Trains a model for a reward."""
    from pyroclast.train.reinforcement import rl

    settings = settings_of(args)
    run_recipe(
        args,
        lambda on_line: rl(
            args.model,
            args.prompts,
            args.out,
            reward=args.reward,
            settings=settings,
            on_line=on_line,
        ),
    )


def run_recipe(args: Namespace, recipe: Callable[[OnLine | None], Result]) -> None:
    """Runs a recipe and prints the table of before and after; with --json the lines of its log, and
    then its result.  Ctrl-C says how the run goes on."""
    from pyroclast.train.measure import table

    try:
        result = recipe((lambda line: write(json.dumps(line))) if args.json else None)
    except KeyboardInterrupt:
        warn(f"stopped; the same command goes on from the last checkpoint in {args.out}")
        raise
    if args.json:
        write(json.dumps(result.as_dict()))
        return
    for line in table(result.before, result.after) if result.after else []:
        write(line)
    about = result.about
    shown = f"{about['parameters']:,} parameters, {about['precision']}"
    write(f"{result.final}: {shown}, {about['tokens_per_s']:,.0f} tokens/s")
