"""A request to read a text: to score its tokens, or to hand out its logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyroclast.engine.call import Call
from pyroclast.engine.output import TokenLogprobs
from pyroclast.engine.request import Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyroclast.model.adapters import AdapterKey

    OnRows = Callable[[int, NDArray[np.float32]], None]


class ReadRequest(Request):
    """Done when its last token is computed.

    The row of logits at position p is scored for `targets[p]`, the token that follows, if p is at
    least `first_row`: what comes before is read, or found in the prefix cache.  `scored`,
    if given, receives that score at [p + 1], with the `n_top` most likely tokens.
    `on_rows(first_position, rows)` receives the logits (n_rows, vocab_size) themselves, as a view
    that the next step overwrites; `on_states` the final states (n_rows, d_model) likewise, of a
    model that keeps them."""

    __slots__ = ("adapter_slot", "call", "n_top", "on_rows", "on_states", "scored", "targets")

    def __init__(
        self,
        token_ids: list[int],
        call: Call,
        *,
        targets: list[int] | None = None,
        scored: list[TokenLogprobs | None] | None = None,
        n_top: int = 0,
        first_row: int = 0,
        on_rows: OnRows | None = None,
        on_states: OnRows | None = None,
        root: bytes = b"",
        adapter: AdapterKey | None = None,
    ) -> None:
        """adapter None: the call's."""
        wants_rows = not (scored is None and on_rows is None and on_states is None)
        super().__init__(token_ids, wants_prompt_rows=wants_rows, root=root)
        self.call = call
        self.adapter_slot = (adapter or call.adapter).slot
        self.n_rows_done = first_row
        self.targets = [0] * len(token_ids) if targets is None else targets
        self.scored = scored
        self.n_top = n_top
        self.on_rows, self.on_states = on_rows, on_states
        call.open.add(self)

    def leave_call(self) -> None:
        """It has ended: its call waits for it no more, and it lets go of the caller's arrays."""
        self.call.open.discard(self)
        self.call.note()
        self.on_rows = self.on_states = None

    @property
    def is_done(self) -> bool:
        """Whether it has all that it wanted."""
        return self.n_computed == self.n_prompt
