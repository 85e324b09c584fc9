"""The packages of the extra [train], imported when a recipe runs."""

from __future__ import annotations

import importlib
from typing import Any

from pyroclast.errors import TrainingError


def needed(name: str) -> Any:
    """The module of that name; a TrainingError says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrainingError(
            f"training needs {name.partition('.')[0]}, which cannot be imported ({error}): "
            "`pip install 'pyroclast-lm[train]'`"
        ) from error
