"""How much of a prompt a step may read beside texts that somebody reads as they come.

A step that reads 512 tokens of a prompt takes many times as long as one that only decodes, and
every running stream would wait for it.  So steps are timed, and beside streams a prompt gets as
many tokens as make a step about twice as long.  A token deep in a long prompt reads everything
before it, and even a few of these may make a step longer than that: then steps without prompts
follow, until streams have on average what they are promised.  Where several prompts wait beside few
streams, it is longer: most of the readers have seen nothing yet, and steps with few streams waste
the weights that they read.  Where computing a token costs more than streaming the weights, as on a
CPU, small chunks take the prompt hardly longer.  The bits of a token do not depend on how its
prompt was cut, so the text does not depend on these times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyroclast.engine.request import Request

# How long a step with the tokens of one prompt should take, and how long streams are promised that
# it takes on average, in steps that only decode.  Several prompts beside few streams stretch both.
_STRETCH, _PROMISE = 2.0, 2.5
# Each prompt that waits beside another counts as much as six streams, six prompts at most.  Eight
# requests of 110 tokens in and 64 out that come at once would take 1.5 times as long as without a
# pace; so it is 1.1 times.  The price: a step beside one stream may take 72 steps' time while seven
# prompts wait.  Beside 36 streams or more nothing changes.
_PROMPT_WEIGHT, _MAX_PROMPTS = 6, 6
# So few join in any case.  The first one can cost as much as four: a lone token has a kernel of its
# own.
_MIN_TOKENS = 2
# Where steps take longer than promised with so few, each is followed by others without prompts.
# Near position 4,000 of the 135M two tokens make a step 2.7 times as long, so it is one.
_MAX_RESTS = 4
# The estimate moves by this factor with each step, up or down: so it settles where half of the
# steps take longer, and one that the operating system interrupted counts no more than another.
_ADJUST = 1.1
# After so many steps with prompts one goes without: how long that takes changes.
_MAX_MIXED_STEPS = 30
_N_TIMES = 7


class Pace:
    """Notes how long steps take, and tells how many tokens of prompts may join the next one."""

    def __init__(self) -> None:
        # Of the last steps that only decoded, by the number of requests in them.
        self._decode_s: dict[int, deque[float]] = {}
        self._token_s: float | None = None  # what a token of a prompt adds to a step
        self._n_asked = 0  # what the last answer was, if a step has not followed it
        self._stretch = _STRETCH  # how long that step should take, in steps that only decode
        self._n_mixed = _MAX_MIXED_STEPS  # steps with prompts since the last one without
        self._least_s: deque[float] = deque(
            maxlen=_N_TIMES
        )  # the last steps with the fewest tokens
        self._n_rests = 0  # steps without prompts that streams are owed
        self._is_rest = False  # the step that was planned last is one of them

    def note_step(self, step: Sequence[Request], n_decoding: int, seconds: float) -> None:
        """As `note`, of any step.  One that verified drafts tells nothing of others."""
        if not any(request.n_step_drafts for request in step):
            n_tokens = sum(request.n_step_tokens for request in step)
            self.note(n_decoding, n_tokens - n_decoding, seconds)

    def note(self, n_decoding: int, n_prompt_tokens: int, seconds: float) -> None:
        """A step in which `n_decoding` requests each got a token, and that read
        `n_prompt_tokens`."""
        n_asked, is_rest = self._n_asked, self._is_rest
        # A rest is not timed: while the times kept are too long nothing rests, so they would stay.
        # But the first time of so many requests is: `decode_times` leaves none without any.
        if not n_prompt_tokens and not (is_rest and self._decode_s.get(n_decoding)):
            self.decode_times(n_decoding).append(seconds)
            return
        self._n_asked, self._is_rest = 0, False
        if not n_prompt_tokens:
            return
        if n_decoding:
            self._n_mixed += 1
            if self._token_s is not None and n_prompt_tokens == n_asked:
                self._adjust(n_decoding, n_prompt_tokens, seconds)
        elif self._token_s is None or seconds / n_prompt_tokens < self._token_s:
            # A short prompt, alone in its step, takes as long as the weights do.
            self._token_s = seconds / n_prompt_tokens

    def decode_times(self, n_decoding: int) -> deque[float]:
        """The next steps only decode, `n_decoding` requests: where to put how long each takes."""
        self._n_asked, self._is_rest, self._n_mixed = 0, False, 0
        times = self._decode_s.get(n_decoding)
        if times is None:
            times = self._decode_s[n_decoding] = deque(maxlen=_N_TIMES)
        return times

    def n_tokens_beside(self, n_decoding: int, n_unread: int, n_prompts: int) -> int:
        """How many of the `n_unread` tokens of `n_prompts` prompts may join; none where a step
        without them is to be timed."""
        if n_unread <= _MIN_TOKENS:
            return n_unread
        if self._goes_without():
            return 0
        if not self._decode_s:
            return _MIN_TOKENS
        n_more = min(n_prompts - 1, _MAX_PROMPTS)
        self._stretch = _STRETCH * max(1.0, _PROMPT_WEIGHT * n_more / n_decoding)
        added_s = (self._stretch - 1) * self._quiet_s(n_decoding)
        self._n_asked = max(_MIN_TOKENS, round(added_s / (self._token_s or added_s)))
        return self._n_asked

    def _goes_without(self) -> bool:
        """Whether the next step is one without prompts.  Nothing waits for such a step to be noted:
        while streams have drafts, none is, and a prompt must come on."""
        self._is_rest = self._n_rests > 0
        if self._is_rest:
            self._n_rests -= 1
            return True
        is_due = self._n_mixed >= _MAX_MIXED_STEPS
        if is_due:
            self._n_mixed = 0
        return is_due

    def _adjust(self, n_decoding: int, n_tokens: int, seconds: float) -> None:
        assert self._token_s is not None
        if seconds < self._stretch * self._quiet_s(n_decoding):
            self._token_s /= _ADJUST
        elif n_tokens > _MIN_TOKENS:
            self._token_s *= _ADJUST
        if n_tokens == _MIN_TOKENS:
            self._least_s.append(seconds)
            self._n_rests = self._rests_after(_median(self._least_s) / self._quiet_s(n_decoding))

    def _rests_after(self, stretch: float) -> int:
        """How many steps without prompts must follow one that takes `stretch` of them, for the mean
        to be as promised."""
        promised = self._stretch * _PROMISE / _STRETCH
        return min(_MAX_RESTS, max(0, ceil((stretch - promised) / (promised - 1))))

    def _quiet_s(self, n_decoding: int) -> float:
        """A step that only decodes: of so many requests, or of the nearest number there was."""
        times = self._decode_s.get(n_decoding)
        if times is None:
            times = self._decode_s[min(self._decode_s, key=lambda n: abs(n - n_decoding))]
        return _median(times)


def _median(values: Collection[float]) -> float:
    """As in `statistics`, which takes a hundredth of a second to import."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2
