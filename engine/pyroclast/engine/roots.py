"""The root of a request: requests with the same one can share blocks."""

from __future__ import annotations

from hashlib import blake2b

N_HASH_BYTES = 16


class Roots:
    """The roots of requests.  shared: all calls share blocks, unless their salts differ; otherwise
    only the requests of one call do.  Requests with different adapters never do."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared

    def of(self, call: object, salt: str | None = None, adapter: bytes = b"") -> bytes:
        """The root of a request of `call`, whose user gave `salt`.  adapter: the fingerprint of the
        one that it uses; equal tokens have other keys and values under another one."""
        if self._shared and salt is None and not adapter:
            return b""
        whose = "" if self._shared else f"{id(call)}"
        text = whose if salt is None else f"{whose}/{salt}"
        return blake2b(text.encode(), digest_size=N_HASH_BYTES, key=adapter).digest()
