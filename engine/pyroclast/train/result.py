"""What a recipe returns, and keeps as result.json in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from pyroclast.errors import TrainingError
from pyroclast.train.disk import writing_to
from pyroclast_kernels.whole_file import write_text

_FILE = "result.json"


@dataclass(frozen=True)
class Result:
    """A finished run.  final: the folder to load.  before and after: figures by name, held out;
    about: sizes, precision, speed."""

    final: str
    before: dict[str, float]
    after: dict[str, float]
    about: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def speed_of(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What the lines of a log say of a run's speed, ready for Result.about."""
    return {
        "tokens_per_s": median(line["tokens_per_s"] for line in lines),
        "training_s": sum(line["seconds"] for line in lines),
    }


def write_result(folder: Path, result: Result) -> None:
    """Keeps it; its presence says that the run is finished."""
    with writing_to(folder / _FILE):
        write_text(folder / _FILE, json.dumps(result.as_dict(), indent=1) + "\n")


def read_result(folder: Path) -> Result | None:
    """The result of a finished run; None where it is not finished."""
    path = folder / _FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        result = Result(**found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}; remove it to go on") from error
    return result
