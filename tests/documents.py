"""The documents of the repository, and what stands in them: blocks, names, commands, paths."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README, ARCHITECTURE, CONTRIBUTING, CHANGELOG = (
    ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG")
)
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
NOTES = sorted((ROOT / "docs" / "notes").glob("*.md"))
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, ARCHITECTURE, CONTRIBUTING, CHANGELOG, *PAGES, *DECISIONS, *NOTES]
SUFFIXES = (".py", ".pyx", ".pxd", ".cpp", ".h", ".md", ".toml", ".txt")
MADE_LATER = {"bench/results/", ".venv/bin/python"}  # by a benchmark, by make


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a document in one of the languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def code_words(path: Path) -> list[str]:
    """What stands in `backticks`, on one line, outside fenced blocks."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def commands(path: Path, program: str) -> Iterator[list[str]]:
    """The words of every command line that a document shows, comments and prompts removed."""
    shown = [line for body in blocks(path, "sh", "console") for line in body.splitlines()]
    for line in [*shown, *code_words(path)]:
        words = line.removeprefix("$ ")
        if words.split(" ")[0] == program:
            yield shlex.split(words, comments=True)


def is_path(word: str) -> bool:
    """Whether a word in backticks names a file or folder of the repository."""
    if not re.fullmatch(r"[\w.<>*/-]+", word):
        return False
    return word.endswith((*SUFFIXES, "/")) or word in ("Makefile", ".ci/run", "bench/results")


def missing(word: str) -> bool:
    """`<op>`, NAME and `*` stand for anything; a bare file name may lie anywhere in the source."""
    pattern = re.sub(r"<\w+>|NAME", "*", word).rstrip("/")
    if any(ROOT.glob(pattern)):
        return False
    folders = ("engine", "kernels", "tests", "bench")
    return "/" in word or not any(any((ROOT / each).rglob(pattern)) for each in folders)
