"""Servers under load: `pyroclast serve` in turn with other servers, and its reliability."""
