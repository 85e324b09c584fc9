"""The kinds of torture, in the order in which a campaign runs them."""

from __future__ import annotations

from torture.caches import CACHES
from torture.campaign import Kind
from torture.exceptions import EXCEPTIONS
from torture.exits import EXITS
from torture.files import FILES
from torture.forks import FORKS
from torture.full_disk import FULL_DISK
from torture.http_server import SERVER
from torture.kills import KILLS
from torture.limits import LIMITS
from torture.random_requests import REQUESTS
from torture.signals import SIGNALS
from torture.templates import TEMPLATES

HOSTILE_FILES = [*FILES, TEMPLATES, *CACHES]
CIRCUMSTANCES = [REQUESTS, EXCEPTIONS, EXITS, KILLS, FULL_DISK, FORKS, SIGNALS, LIMITS, SERVER]
KINDS: list[Kind] = [*HOSTILE_FILES, *CIRCUMSTANCES]
