"""Pairs of answers and which of the two a person prefers, in an SQLite file."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroclast.errors import TrainingError

CHOICES = ("a", "b", "skip")
_TABLE = """
CREATE TABLE IF NOT EXISTS pairs (
    id INTEGER PRIMARY KEY,
    place INTEGER NOT NULL UNIQUE,
    model TEXT NOT NULL,
    prompt TEXT NOT NULL,
    a TEXT NOT NULL,
    b TEXT NOT NULL,
    choice TEXT CHECK (choice IN ('a', 'b', 'skip')),
    rated INTEGER UNIQUE
)
"""
_PAIR = "SELECT id, prompt, a, b FROM pairs"
# Errors that say nothing of what the file holds.
_OF_THE_DISK = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_BUSY")


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt: text, or a list of messages."""

    id: int
    prompt: Any
    a: str
    b: str


class Ratings:
    """The pairs of one file, which is made where there is none; safe to use from several threads.
    TrainingError for a file that holds something else."""

    def __init__(self, path: str | Path) -> None:
        self.path, self._lock = path, threading.Lock()
        try:
            self._database = sqlite3.connect(path, check_same_thread=False)
        except sqlite3.Error as error:
            raise TrainingError(f"{path}: cannot be opened: {error}") from error
        try:
            with self._changing() as database:
                database.execute(_TABLE)
                database.execute(f"{_PAIR} WHERE rated > 0 AND place > 0 LIMIT 1")
        except TrainingError:
            self._database.close()
            raise

    def add(self, place: int, model: str, prompt: Any, a: str, b: str) -> None:
        """Keeps two answers, to be rated.  place: counts the pairs of a session's plan; one that is
        there already stays."""
        with self._changing() as database:
            database.execute(
                "INSERT OR IGNORE INTO pairs (place, model, prompt, a, b) VALUES (?, ?, ?, ?, ?)",
                (place, model, json.dumps(prompt), a, b),
            )

    def waiting(self) -> Pair | None:
        """The first pair that is not rated."""
        return self._pair("WHERE choice IS NULL ORDER BY place LIMIT 1")

    def rate(self, pair_id: int, choice: str) -> None:
        """Stores which answer of a pair is better, or that neither is."""
        if choice not in CHOICES:
            raise TrainingError(f"choice must be one of {', '.join(CHOICES)}, got {choice!r:.40}")
        with self._changing() as database:
            changed = database.execute(
                "UPDATE pairs SET choice = ?, "
                "rated = (SELECT COALESCE(MAX(rated), 0) + 1 FROM pairs) "
                "WHERE id = ? AND choice IS NULL",
                (choice, pair_id),
            )
            if changed.rowcount != 1:
                raise TrainingError(f"there is no pair {pair_id} that waits for a rating")

    def undo(self) -> Pair | None:
        """Takes the last rating back; the pair, or None where there is no rating."""
        found = self._pair("WHERE rated IS NOT NULL ORDER BY rated DESC LIMIT 1")
        if found is not None:
            with self._changing() as database:
                query = "UPDATE pairs SET choice = NULL, rated = NULL WHERE id = ?"
                database.execute(query, (found.id,))
        return found

    def places(self) -> dict[int, Any]:
        """The prompt of each place that has a pair."""
        with self._changing() as database:
            rows = list(database.execute("SELECT place, prompt FROM pairs"))
        return {place: self._prompt_of(prompt) for place, prompt in rows}

    def n_rated(self) -> int:
        """How many pairs have a rating, those that were skipped among them."""
        with self._changing() as database:
            query = "SELECT COUNT(*) FROM pairs WHERE choice IS NOT NULL"
            [(n,)] = database.execute(query)
            return int(n)

    def export(self) -> list[dict[str, Any]]:
        """The rows {"prompt", "chosen", "rejected"} that `prefer` and `reward` take."""
        with self._changing() as database:
            query = (
                "SELECT prompt, a, b, choice FROM pairs WHERE choice IN ('a', 'b') ORDER BY place"
            )
            rows = list(database.execute(query))
        return [
            {
                "prompt": self._prompt_of(prompt),
                "chosen": a if choice == "a" else b,
                "rejected": b if choice == "a" else a,
            }
            for prompt, a, b, choice in rows
        ]

    def close(self) -> None:
        """Closes the file; harmless when repeated."""
        with self._lock:
            self._database.close()

    def __enter__(self) -> Ratings:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pair(self, where: str) -> Pair | None:
        with self._changing() as database:
            row = database.execute(f"{_PAIR} {where}").fetchone()
        return None if row is None else Pair(row[0], self._prompt_of(row[1]), row[2], row[3])

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """The database for one change, which is kept whole or not at all."""
        try:
            with self._lock, self._database:
                yield self._database
        except OverflowError as error:  # a page of another program may send any number
            raise TrainingError("there is no pair of so large a number") from error
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(_OF_THE_DISK):
                raise TrainingError(
                    f"{self.path}: cannot be read or written: {error}; what was rated before is "
                    "kept"
                ) from error
            raise self._damaged(error) from error

    def _prompt_of(self, text: Any) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> TrainingError:
        return TrainingError(f"{self.path}: not a file of ratings, or damaged: {error}")


def jsonl(rows: list[dict[str, Any]]) -> str:
    """A JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
