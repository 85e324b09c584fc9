"""The kinds of torture, in the order in which a campaign runs them."""

from __future__ import annotations

from torture.adapter_files import ADAPTERS
from torture.cache_kills import CACHE_KILLS
from torture.caches import CACHES
from torture.campaign import Kind
from torture.exceptions import EXCEPTIONS
from torture.exits import EXITS
from torture.files import FILES
from torture.forks import FORKS
from torture.full_disk import FULL_DISK
from torture.guided import why_not
from torture.guided_kinds import guided_kinds
from torture.http_server import SERVER
from torture.kills import KILLS
from torture.limits import LIMITS
from torture.pages import PAGE_KILLS, PAGES
from torture.random_requests import REQUESTS
from torture.signals import SIGNALS
from torture.templates import TEMPLATES

HOSTILE_FILES = [*FILES, *ADAPTERS, TEMPLATES, *CACHES, *PAGES]
CIRCUMSTANCES = [
    REQUESTS,
    EXCEPTIONS,
    EXITS,
    KILLS,
    PAGE_KILLS,
    CACHE_KILLS,
    FULL_DISK,
    FORKS,
    SIGNALS,
    LIMITS,
    SERVER,
]
GUIDED: list[Kind] = [] if why_not() else guided_kinds()
KINDS: list[Kind] = [*HOSTILE_FILES, *GUIDED, *CIRCUMSTANCES]
