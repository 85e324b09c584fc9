"""Which prompts the rest of a step reads, and how much of each.

Half of the tokens go to the oldest prompt, so that it always advances.  The other half goes to the
prompt with the fewest unread tokens, then to the next: a short request beside a long prompt starts
within a few steps, and prompts of one length are read one after the other, as in a plain queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pyroclast.engine.request import Request

R = TypeVar("R", bound=Request)


def add_chunks(step: list[R], prompts: Sequence[R], n_tokens: int, n_rows: int) -> None:
    """Adds chunks of `prompts`, the oldest first, to a step that has room for `n_tokens` tokens and
    `n_rows` rows of logits.  Sets `n_step_tokens` and `n_step_rows` of those that it adds."""
    for request, n_granted in _shares(prompts, n_tokens):
        n_step = n_granted
        n_due = rows_of(request, n_step)
        if n_due > n_rows:
            # Fewer tokens, so that no more rows come due than the step has left.
            n_step -= n_due - n_rows
            n_due = n_rows
        if n_step <= 0:
            continue
        request.n_step_tokens, request.n_step_drafts = n_step, 0
        request.n_step_rows = n_due
        step.append(request)
        n_rows -= n_due


def _shares(prompts: Sequence[R], n_tokens: int) -> list[tuple[R, int]]:
    """The tokens of each prompt, the oldest prompt first and then the shortest."""
    if not prompts:
        return []
    oldest = prompts[0]
    n_kept = min(oldest.n_unread, (n_tokens + 1) // 2)
    n_left = n_tokens - n_kept
    shares: list[tuple[R, int]] = []
    # The sort is stable: of two with as much to read the older one goes first.
    for request in sorted(prompts, key=lambda r: r.n_unread - (n_kept if r is oldest else 0)):
        n_first = n_kept if request is oldest else 0
        n_granted = min(request.n_unread - n_first, n_left)
        n_left -= n_granted
        if request is oldest:
            shares.insert(0, (request, n_first + n_granted))
        elif n_granted:
            shares.append((request, n_granted))
    return shares


def rows_of(request: Request, n_tokens: int) -> int:
    """The rows of logits that computing the next `n_tokens` of `request` brings due."""
    end = request.n_computed + n_tokens
    n_rows = 1 if end == len(request.token_ids) else 0
    if request.wants_prompt_rows and end <= request.n_prompt:
        n_rows = max(n_rows, end - max(request.n_computed, request.n_rows_done))
    return n_rows
