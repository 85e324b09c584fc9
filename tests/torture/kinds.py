"""The kinds of torture, in the order in which a campaign runs them."""

from __future__ import annotations

from torture.caches import CACHES
from torture.campaign import Kind
from torture.exceptions import EXCEPTIONS
from torture.exits import EXITS
from torture.files import FILES
from torture.full_disk import FULL_DISK
from torture.kills import KILLS
from torture.random_requests import REQUESTS
from torture.templates import TEMPLATES

KINDS: list[Kind] = [
    *FILES,
    TEMPLATES,
    *CACHES,
    REQUESTS,
    EXCEPTIONS,
    EXITS,
    KILLS,
    FULL_DISK,
]
