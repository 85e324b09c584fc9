"""The kinds of torture, in the order in which a campaign runs them."""

from __future__ import annotations

from torture.caches import CACHES
from torture.campaign import Kind
from torture.files import FILES
from torture.templates import TEMPLATES

KINDS: list[Kind] = [*FILES, TEMPLATES, *CACHES]
