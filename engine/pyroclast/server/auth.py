"""API keys: Bearer and x-api-key, compared in constant time."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyroclast.errors import RequestError, reason_of

ENVIRONMENT = "PYROCLAST_API_KEY"
OPEN_PATHS = frozenset({"/health", "/ready"})


def read_keys(path: str | Path | None, given: Sequence[str] = ()) -> tuple[str, ...]:
    """The keys of a file (one a line), of the command line and of the environment (commas between
    them).  Empty: no key is asked for."""
    keys = [*given, *os.environ.get(ENVIRONMENT, "").split(",")]
    if path is not None:
        try:
            keys += Path(path).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"cannot read the API keys in {path}: {reason_of(error)}") from error
    found = tuple(key.strip() for key in keys if key.strip())
    if path is not None and not found:
        raise RequestError(f"{path} holds no API key: write one a line")
    return found


def is_allowed(keys: Sequence[str], path: str, headers: Mapping[str, str]) -> bool:
    """Whether a request may pass."""
    if not keys or path in OPEN_PATHS:
        return True
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    tried = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
    # Every pair is compared, so that the time tells nothing about which key came close.
    matches = [hmac.compare_digest(each.encode(), key.encode()) for each in tried for key in keys]
    return any(matches)
