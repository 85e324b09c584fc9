"""The flags that choose workloads, shared by the commands that time them."""

from __future__ import annotations

import argparse


def add_workload_flags(command: argparse.ArgumentParser) -> None:
    """-p, -n, -d and -b: lists of lengths, of which every combination is timed."""
    for flag, name, default, text in (
        ("-p", "prompt", "512", "prompt lengths in tokens; 0: none"),
        ("-n", "gen", "128", "numbers of tokens to decode; 0: none"),
        ("-d", "depth", "0", "tokens already in the context"),
        ("-b", "batch", "1", "sequences in one batch"),
    ):
        command.add_argument(
            flag,
            f"--{name}",
            type=numbers,
            default=default,
            metavar="N,...",
            help=f"{text} (default: {default})",
        )


def numbers(text: str) -> list[int]:
    """The whole numbers of a list such as "1,4,16"."""
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"must be whole numbers, as in 1,4,16; got {text!r}")
    return [int(word) for word in words]
