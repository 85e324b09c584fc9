"""Two sampled answers after the other to a list of prompts, for a person to rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyroclast.errors import TrainingError
from pyroclast.llm import LLM
from pyroclast.sampling.params import SamplingParams
from pyroclast.train.prompts import Prompt
from pyroclast.train.ratings import Pair, Ratings

_ATTEMPTS = 4  # to find two answers that differ


class RatingSession:
    """Pairs for the ratings, `rounds` of each prompt.  params.seed decides the answers, so that a
    session that is opened again goes on with the same ones."""

    def __init__(
        self,
        llm: LLM,
        prompts: Sequence[Prompt],
        ratings: Ratings,
        params: SamplingParams,
        rounds: int = 1,
    ) -> None:
        self._llm, self._prompts, self.ratings = llm, list(prompts), ratings
        self._params = params
        self.n_wanted = rounds * len(self._prompts)
        self._equal: set[int] = set()  # places whose answers are always the same
        for place, prompt in ratings.places().items():
            if place <= self.n_wanted and prompt != self._prompt(place):
                raise TrainingError(
                    f"{ratings.path}: its pair {place} answers another prompt than this session's; "
                    "give the prompts and rounds that it began with, or another file of ratings"
                )

    @property
    def n_done(self) -> int:
        """Pairs that need no more rating."""
        return self.ratings.n_rated() + len(self._equal)

    def next(self) -> Pair | None:
        """The pair to rate now; None when all are rated."""
        while (found := self.ratings.waiting()) is None:
            taken = self.ratings.places().keys() | self._equal
            place = next((i for i in range(1, self.n_wanted + 1) if i not in taken), None)
            if place is None:
                return None
            self._sample(place)
        return found

    def _prompt(self, place: int) -> Prompt:
        return self._prompts[(place - 1) % len(self._prompts)]

    def _sample(self, place: int) -> None:
        prompt = self._prompt(place)
        for attempt in range(_ATTEMPTS):
            seed = ((self._params.seed or 0) * 1_000_003 + place * _ATTEMPTS + attempt) % (1 << 31)
            params = replace(self._params, n=2, seed=seed)
            if isinstance(prompt, str):
                one, two = self._llm.generate(prompt, params)
            else:
                one, two = self._llm.chat(prompt, params)
            if one.text != two.text:
                self.ratings.add(place, self._llm.name, prompt, one.text, two.text)
                return
        self._equal.add(place)
