"""Speculation: which drafts the next step tries, and for whom.

Each request that takes drafts has a `Drafter`, which follows its text.  A step tries drafts only
if every request in it decodes, and only as many as promise more tokens per second (`draft_costs`).
The text does not depend on any of this: a step verifies its drafts (see `draft_planner`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from pyroclast.engine.draft_costs import STEP_COSTS, least_chance, n_drafts
from pyroclast.engine.drafter import Drafter
from pyroclast.engine.past_outputs import PastOutputs
from pyroclast.engine.request import Request
from pyroclast.errors import RequestError

R = TypeVar("R", bound=Request)

SPECULATIONS = ("auto", "off", "suffix", "draft", "mtp")
_PAST_BYTES = 16 << 20  # what the answers of the past may take


def check_speculation(speculation: str) -> None:
    """RequestError for what is none of SPECULATIONS."""
    if speculation not in SPECULATIONS:
        known = ", ".join(map(repr, SPECULATIONS))
        raise RequestError(f"speculation must be one of {known}, got {speculation!r}")


def speculator(
    speculation: str,
    device: str,
    is_recurrent: bool = False,
    costs: Sequence[float] = STEP_COSTS,
) -> Speculator | None:
    """None where no drafts are tried.  "auto" tries them on the CPU, for models without recurrent
    layers: what drafts cost on a GPU, and what it costs to keep the state behind each of them, has
    not been measured."""
    check_speculation(speculation)
    if speculation == "off":
        return None
    if speculation == "auto" and (device != "cpu" or is_recurrent):
        why = "the model has recurrent layers" if is_recurrent else f"it runs on {device!r}"
        import logging  # late: every start would pay for it

        logging.getLogger("pyroclast").info(
            'speculation="auto" tries no drafts, because %s; "suffix" tries them', why
        )
        return None
    return Speculator(costs)


class Drafting(Protocol):
    """A source of drafts, or several.  drafts: those for the next step of `requests`.  keep: these
    requests have ended; drop: these were given up.  forget: nothing that it knows of `requests`
    can be trusted."""

    def drafts(self, requests: Iterable[Any], /) -> Sequence[tuple[Any, list[int]]]: ...
    def keep(self, requests: Iterable[Request], /) -> None: ...
    def drop(self, requests: Iterable[Request], /) -> None: ...
    def forget(self, requests: Iterable[Request], /) -> None: ...
    def close(self) -> None: ...


class Speculator:
    """costs: see `draft_costs`.  `past`: the answers that it has seen."""

    def __init__(self, costs: Sequence[float] = STEP_COSTS) -> None:
        self._costs = costs
        self._least_chances: dict[int, float] = {}  # by the rows of a step
        self.past = PastOutputs(_PAST_BYTES)

    def drafts(self, requests: Iterable[R]) -> list[tuple[R, list[int]]]:
        """The drafts for a step of `requests`, those that are paused left out; none if one of them
        reads a prompt."""
        matched: list[tuple[R, Drafter]] = []
        chances: list[float] = []
        n_rows = 0
        for request in requests:
            if request.is_paused:
                continue
            n_computed = request.n_computed
            if n_computed < request.n_prompt:
                return []
            n_rows += len(request.token_ids) - n_computed  # with those that a grammar has forced
            if not request.takes_drafts:
                continue
            drafter = request.drafter
            if drafter is None:
                drafter = request.drafter = self._drafter(request)
            chance = drafter.read()
            if chance:
                matched.append((request, drafter))
                chances.append(chance)
        if not matched or max(chances) < self._least_chance(n_rows):
            return []
        counts = n_drafts(chances, n_rows, self._costs)
        found: list[tuple[R, list[int]]] = []
        for (request, drafter), n in zip(matched, counts, strict=True):
            if n:
                request.draft_source = "suffix"
                found.append((request, drafter.draft(n)))
        return found

    def keep(self, requests: Iterable[Request]) -> None:
        """Stores the answers of requests that have ended, and frees their drafters."""
        for request in requests:
            if request.drafter is not None:
                request.drafter = None
                self.past.add(request.root, request.token_ids[request.n_prompt :])

    def drop(self, requests: Iterable[Request]) -> None:
        """Requests that were given up leave nothing behind."""

    def close(self) -> None:
        """It holds nothing but memory."""

    def forget(self, requests: Iterable[Request]) -> None:
        """After an interruption at an unknown place: everything is built again."""
        self.past = PastOutputs(_PAST_BYTES)
        for request in requests:
            request.drafter = None

    def _least_chance(self, n_rows: int) -> float:
        """See `draft_costs`."""
        found = self._least_chances.get(n_rows)
        if found is None:
            found = self._least_chances[n_rows] = least_chance(n_rows, self._costs)
        return found

    def _drafter(self, request: Request) -> Drafter:
        return Drafter(request.token_ids, request.n_prompt, self.past, request.root)
