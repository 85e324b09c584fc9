"""The kinds of torture, in the order in which a campaign runs them."""

from __future__ import annotations

from torture.campaign import Kind
from torture.templates import TEMPLATES

KINDS: list[Kind] = [TEMPLATES]
