"""The times of one request, and the `Timings` that its user sees."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.engine.output import DraftCount, Timings


class Clock:
    """When a request came, started, gave its first token and its last (perf_counter); how many
    drafts were tried for it, and how many of them became tokens of its text."""

    __slots__ = ("arrived_s", "drafts", "end_s", "first_token_s", "started_s")

    def __init__(self, arrived_s: float) -> None:
        self.arrived_s = arrived_s
        self.started_s: float | None = None
        self.first_token_s: float | None = None
        self.end_s = arrived_s
        self.drafts: dict[str, DraftCount] = {}  # by their source

    @property
    def n_drafted(self) -> int:
        """Drafts of all sources that were tried."""
        return sum(each.n_drafted for each in self.drafts.values())

    def note_drafts(self, source: str, n_drafts: int) -> DraftCount:
        """So many drafts were tried; where those that were right are counted."""
        found = self.drafts.setdefault(source, DraftCount())
        found.n_drafted += n_drafts
        return found

    def tick(self, start_s: float, end_s: float) -> None:
        """A step from `start_s` to `end_s` computed some of the request's tokens."""
        self.end_s = end_s
        if self.started_s is None:
            self.started_s = start_s

    def timings(
        self, n_prompt: int, n_cached: int, n_generated: int, step_bandwidth_share: float
    ) -> Timings:
        """step_bandwidth_share: what one step per second takes of the memory bandwidth."""
        started_s = self.end_s if self.started_s is None else self.started_s
        first_s = self.end_s if self.first_token_s is None else self.first_token_s
        prompt_s, decode_s = first_s - started_s, self.end_s - first_s
        decode_rate = (n_generated - 1) / decode_s if n_generated > 1 and decode_s > 0 else None
        has_prompt_rate = self.first_token_s is not None and prompt_s > 0
        return Timings(
            n_prompt_tokens=n_prompt,
            n_cached_tokens=n_cached,
            n_completion_tokens=n_generated,
            n_drafted_tokens=self.n_drafted,
            n_accepted_tokens=sum(each.n_accepted for each in self.drafts.values()),
            drafts={source: replace(each) for source, each in self.drafts.items()},
            queue_s=started_s - self.arrived_s,
            prompt_s=prompt_s,
            decode_s=decode_s,
            first_token_s=None if self.first_token_s is None else first_s - self.arrived_s,
            total_s=self.end_s - self.arrived_s,
            prompt_tokens_per_s=(n_prompt - n_cached) / prompt_s if has_prompt_rate else None,
            decode_tokens_per_s=decode_rate,
            bandwidth_share=decode_rate * step_bandwidth_share
            if decode_rate is not None and step_bandwidth_share > 0
            else None,
        )
