"""What stands where a closed model's parts were."""

from __future__ import annotations

from typing import Any, NoReturn

from pyroclast.errors import ClosedError


class _Closed:
    def __getattr__(self, name: str) -> NoReturn:
        """Raises ClosedError for every part that is asked for."""
        raise ClosedError("the model is closed")


CLOSED: Any = _Closed()
