"""Drafts of a second model, or of the model's own head: when they are worth their time, how many.

Unlike a text's own repetitions, these drafts cost time before a step verifies them: the second
model reads the text, and then runs once for each draft; a head only runs.  So everything is timed,
and a step tries as many as promise the most tokens per second: by how often drafts were right
lately, by the time of a step, of a draft, and of reading what the second model has not read of the
text.  Where they promise nothing, a small share of the time goes to trials, which notice when texts
change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

from pyroclast.engine.draft_costs import STEP_COSTS, cost_of, plan_drafts
from pyroclast.engine.follower import Follower, Judged
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.median_times import MedianTimes
from pyroclast.engine.request import Request
from pyroclast.errors import PyroclastError

_FIRST_CHANCE, _MAX_CHANCE = 0.7, 0.97  # that a draft is right, before any was tried; at most
_SHARE = 1 / 12  # by which each draft that was judged moves it
# Reading a text must pay within so many tokens: nobody knows how long an answer becomes.
_FORESIGHT = 128
_TRIALS = 0.005  # their share of the time where no drafts are worth it
_MAX_UNREAD = 32  # of a text that decodes; more than one where a grammar forces tokens
# After so many steps with drafts one goes without: how long that takes changes.
_MAX_DRAFTED_STEPS = 40
# A prompt's tokens take less time each than a draft, until some were timed: they share the weights.
_READING = 1 / 8


class _Begun(NamedTuple):
    """A step that only decodes: when it began, how many texts and rows without drafts it has, and
    how long it should take if it has drafts, else 0."""

    start_s: float
    n_texts: int
    n_rows: int
    expected_s: float = 0.0


Drafts = list[tuple[GenerateRequest, list[int]]]


class Runs(Protocol):
    """What a step of drafts runs."""

    def forward(self, sample: bool = False) -> None: ...


class DraftSource(Protocol):
    """What proposes tokens at a price; `draft_model.DraftModel` says more.  source: its name in
    timings; what: its name for people."""

    source: str
    what: str

    @property
    def model(self) -> Runs: ...
    def reset(self) -> None: ...
    def follow(self, request: GenerateRequest, chance: float, /) -> Follower: ...
    def release(self, request: GenerateRequest, /) -> object: ...
    def n_behind(self, request: GenerateRequest, /) -> int: ...
    def propose(
        self,
        wanted: Sequence[tuple[GenerateRequest, int]],
        run: Callable[[int, int], None],
        /,
    ) -> list[list[int]]: ...
    def close(self) -> None: ...


class DraftSpeculator:
    """weight_share: the bytes of weights that a step of the draft model reads, relative to those of
    the model that verifies: an estimate of a draft's time until one was timed.  costs: see
    `draft_costs`."""

    def __init__(
        self,
        draft: DraftSource,
        weight_share: float,
        costs: Sequence[float] = STEP_COSTS,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.draft, self._weight_share, self._costs, self._clock = draft, weight_share, costs, clock
        self.chance = _FIRST_CHANCE  # of texts that it has not followed yet
        self._plain_s = MedianTimes()  # steps of the model that verifies, without drafts
        self._round_s = MedianTimes()  # steps of the draft model, one token for each text
        self._reading_s = MedianTimes()  # for each token of steps of the draft model that read
        # Of steps with drafts: what they took, relative to what `costs` promised.
        self._scale = MedianTimes()
        self._row_s = 0.0  # of a step of one row
        self._credit_s = 0.0  # for trials
        self._n_drafted_steps = 0  # since the last step without drafts
        self._begun: _Begun | None = None
        self._is_broken = False

    # ---- what the stepper asks -------------------------------------------------------------

    def drafts(self, requests: Iterable[Request]) -> Drafts:
        """The drafts for a step of `requests`, those that are paused left out; none if one of them
        reads a prompt."""
        n_texts, n_rows, takers = _takers(requests)
        self._note_step(n_texts)
        if self._is_broken or not n_rows:
            return []
        for request in takers:
            if request.follower is not None:
                self._judge(request, request.follower.follow(request.token_ids))
        wanted = self._wanted(takers, n_texts, n_rows)
        found = self._make(wanted) if wanted else []
        expected_s = 0.0
        if found:
            self._n_drafted_steps += 1
            n_drafts = sum(len(draft_ids) for _, draft_ids in found)
            expected_s = self._row_s * self._cost(n_rows + n_drafts)
        self._begun = _Begun(self._clock(), n_texts, n_rows, expected_s)
        return found

    def pass_over(self) -> None:
        """The next step has drafts of another source."""
        self._begun = None

    def keep(self, requests: Iterable[Request]) -> None:
        """Learns from requests that have ended, and forgets their texts."""
        for request in requests:
            if isinstance(request, GenerateRequest) and request.follower is not None:
                self._judge(request, request.follower.follow(request.token_ids))
        self.drop(requests)

    def drop(self, requests: Iterable[Request]) -> None:
        """Forgets the texts of requests that were given up."""
        for request in requests:
            if isinstance(request, GenerateRequest) and request.follower is not None:
                self.draft.release(request)

    def forget(self, requests: Iterable[Request]) -> None:
        """After an interruption at an unknown place: every text is read again."""
        self._begun = None
        self.draft.reset()
        for request in requests:
            if isinstance(request, GenerateRequest):
                request.follower = None

    def close(self) -> None:
        """Frees the draft model."""
        self._is_broken = True
        self.draft.close()

    # ---- inside ----------------------------------------------------------------------------

    def _note_step(self, n_texts: int) -> None:
        """Times the step that has just ended, unless it has read a prompt."""
        begun, self._begun = self._begun, None
        if begun is None or not 0 < n_texts <= begun.n_texts:
            return
        seconds = self._clock() - begun.start_s
        if begun.expected_s:
            self._scale.note(0, seconds / begun.expected_s)
            return
        self._n_drafted_steps = 0
        self._plain_s.note(begun.n_rows, seconds)
        # The median: nobody may have fetched a chunk for long.
        self._credit_s += _TRIALS * min(seconds, self._plain_s.of(begun.n_rows) or seconds)

    def _judge(self, request: GenerateRequest, judged: Judged) -> None:
        follower = request.follower
        assert follower is not None, "only drafts are judged"
        for is_right in [1.0] * judged.n_right + [0.0] * judged.has_wrong:
            moved = follower.chance + (is_right - follower.chance) * _SHARE
            follower.chance = min(_MAX_CHANCE, moved)
            self.chance = min(_MAX_CHANCE, self.chance + (is_right - self.chance) * _SHARE)

    def _wanted(
        self, takers: list[GenerateRequest], n_texts: int, n_rows: int
    ) -> list[tuple[GenerateRequest, int]]:
        """How many drafts each request should get."""
        plain_s = self._plain_s.known(n_rows)
        if plain_s is None and n_rows > n_texts:  # a grammar forced tokens
            one_each_s = self._plain_s.known(n_texts) or 0.0
            plain_s = one_each_s * self._cost(n_rows) / self._cost(n_texts)
        if not plain_s or not takers or self._n_drafted_steps >= _MAX_DRAFTED_STEPS:
            return []
        row_s = self._row_s = plain_s / self._cost(n_rows)
        round_s = self._round_s.of(len(takers)) or plain_s * self._weight_share
        reading_s = self._reading_s.of(0) or round_s * _READING
        chances = [self._chance_of(request) for request in takers]
        known = n_rows, self._costs, round_s / row_s, max(1.0, self._scale.of(0) or 1.0)
        counts, gain = plan_drafts(chances, *known)
        if gain > 1:
            saved_s = plain_s * (1 - 1 / gain) / len(takers)  # by each token of a text
            for i, request in enumerate(takers):
                if (
                    self.draft.n_behind(request) * reading_s
                    > min(request.max_drafts, _FORESIGHT) * saved_s
                ):
                    chances[i] = 0.0
            if 0.0 in chances:
                counts = plan_drafts(chances, *known).counts
        if not any(counts):
            more_s = row_s * (self._cost(n_rows + 1) - self._cost(n_rows))
            return self._trial(takers, round_s + more_s, reading_s)
        return [
            (request, min(n, request.max_drafts))
            for request, n in zip(takers, counts, strict=True)
            if n
        ]

    def _trial(
        self, takers: list[GenerateRequest], draft_s: float, reading_s: float
    ) -> list[tuple[GenerateRequest, int]]:
        """A draft for the request of which least is unread, if there is time for it."""
        request = min(takers, key=self.draft.n_behind)
        trial_s = draft_s + self.draft.n_behind(request) * reading_s
        if trial_s > self._credit_s:
            return []
        self._credit_s = 0.0
        return [(request, 1)]

    def _cost(self, n_rows: int) -> float:
        return cost_of(n_rows, self._costs)

    def _chance_of(self, request: GenerateRequest) -> float:
        return self.chance if request.follower is None else request.follower.chance

    def _make(self, wanted: list[tuple[GenerateRequest, int]]) -> Drafts:
        for request, _ in wanted:
            if request.follower is None:
                self.draft.follow(request, self.chance).follow(request.token_ids)
        try:
            made = self.draft.propose(wanted, self._run)
        except PyroclastError as error:  # the text goes on without it
            import logging  # late: every start would pay for it

            what = self.draft.what
            logging.getLogger("pyroclast").warning(
                "%s failed, and is not asked any more: %s", what, error
            )
            self._is_broken = True
            return []
        found: Drafts = []
        for (request, _), draft_ids in zip(wanted, made, strict=True):
            if draft_ids:
                request.draft_source = self.draft.source
                found.append((request, draft_ids))
        return found

    def _run(self, n_tokens: int, n_seqs: int) -> None:
        start_s = self._clock()
        self.draft.model.forward(True)
        seconds = self._clock() - start_s
        if n_tokens == n_seqs:
            self._round_s.note(n_seqs, seconds)
        else:
            self._reading_s.note(0, seconds / n_tokens)


def _takers(requests: Iterable[Request]) -> tuple[int, int, list[GenerateRequest]]:
    """The texts and the rows of a step without drafts, and the requests that may get some.  None
    where the step reads a prompt, or a text that was preempted."""
    n_texts, n_rows, takers = 0, 0, list[GenerateRequest]()
    for request in requests:
        if request.is_paused:
            continue
        if request.n_computed < request.n_prompt or request.n_unread > _MAX_UNREAD:
            return 0, 0, []
        n_texts += 1
        n_rows += len(request.token_ids) - request.n_computed
        if request.max_drafts > 0 and isinstance(request, GenerateRequest):
            takers.append(request)
    return n_texts, n_rows, takers
