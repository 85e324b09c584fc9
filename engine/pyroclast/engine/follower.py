"""A request's text as what drafts reads it, with the drafts that it puts behind.

Drafts are drawn as the request draws: by the same temperature and cuts, and by the same random
number of each position.  Where both agree, so do their tokens.  Penalties, biases and grammars are
left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pyroclast.engine.request import Request
from pyroclast_kernels.sample import new_rows

if TYPE_CHECKING:
    import numpy as np

    from pyroclast.sampling.params import SamplingParams

_ROW_FIELDS = ("temperature", "top_p", "min_p", "typical_p", "top_n_sigma", "top_k")


def sample_row(params: SamplingParams, seed: int, completion: int) -> np.void:
    """How the drafts of a request are sampled, but for their position: a ROW of
    `pyroclast_kernels.sample`."""
    row: Any = new_rows(1)[0]
    for name in _ROW_FIELDS:
        row[name] = getattr(params, name)
    row["seed"], row["completion"] = seed, completion
    found: np.void = row
    return found


class Judged(NamedTuple):
    """Of the last drafts: how many were right, and whether another one behind them was wrong."""

    n_right: int
    has_wrong: bool


class Follower(Request):
    """`token_ids` are the first `n_text` tokens of a text, and `n_drafts` drafts behind them.

    chance: that a draft is right if those before it are.  n_wanted: how many drafts the text shall
    get.  row: see `sample_row`."""

    __slots__ = ("chance", "n_text", "n_wanted", "row")

    def __init__(self, chance: float, row: np.void) -> None:
        super().__init__([])
        self.chance, self.row = chance, row
        self.n_text = self.n_wanted = 0

    @property
    def n_drafts(self) -> int:
        return len(self.token_ids) - self.n_text

    @property
    def draft_tokens(self) -> list[int]:
        """A copy."""
        return self.token_ids[self.n_text :]

    def follow(self, text: list[int]) -> Judged:
        """The text has grown: reads what is new, and forgets the drafts that were wrong."""
        ids, n_known, n_end = self.token_ids, self.n_text, len(self.token_ids)
        n = n_known
        while n < n_end and n < len(text) and ids[n] == text[n]:
            n += 1
        judged = Judged(n - n_known, n < n_end and n < len(text))
        del ids[n:]
        ids.extend(text[n:])
        # The last token is computed again where it was a draft: the logits behind it are wanted.
        self.n_computed = min(self.n_computed, n, len(text) - 1)
        self.n_text, self.n_wanted = len(text), 0
        return judged
