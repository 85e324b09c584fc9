"""What /metrics tells Prometheus: vLLM's names where the meaning is vLLM's."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from time import perf_counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from pyroclast.engine.output import Chunk

_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
_LONG_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 640)
_N_TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
_LABEL = ("model_name",)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = {
    "prompt_tokens": ("vllm:prompt_tokens", "Prompt tokens read"),
    "cache_queries": ("vllm:prefix_cache_queries", "Prompt tokens looked up in the KV cache"),
    "cache_hits": ("vllm:prefix_cache_hits", "Prompt tokens found in the KV cache"),
    "drafted": ("vllm:spec_decode_num_draft_tokens", "Draft tokens tried"),
    "accepted": ("vllm:spec_decode_num_accepted_tokens", "Draft tokens that became text"),
    "failed": ("pyroclast:requests_failed", "Requests that ended with an error"),
    "cancelled": ("pyroclast:requests_cancelled", "Requests whose client went away"),
}
_GAUGES = {
    "running": ("vllm:num_requests_running", "Requests in the steps"),
    "waiting": ("vllm:num_requests_waiting", "Requests in the queue"),
    "cache_usage": ("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1"),
}
_HISTOGRAMS = {
    "first_token_s": (
        "vllm:time_to_first_token_seconds",
        "From the request to its first token",
        _LONG_S,
    ),
    "whole_s": (
        "vllm:e2e_request_latency_seconds",
        "From the request to its last token",
        _LONG_S,
    ),
    "queue_s": (
        "vllm:request_queue_time_seconds",
        "From the request to the first step that reads its prompt",
        _LONG_S,
    ),
    "request_prompt_tokens": (
        "vllm:request_prompt_tokens",
        "Tokens of the prompt of a choice that ended",
        _N_TOKENS,
    ),
    "request_generation_tokens": (
        "vllm:request_generation_tokens",
        "Tokens of a choice that ended",
        _N_TOKENS,
    ),
}


class TokenCounts:
    """What every token of a model counts in.  Plain numbers: a Counter and a Histogram would cost
    microseconds for each."""

    __slots__ = ("between_s", "n_between", "n_disk_pages", "n_generated", "n_preemptions")

    def __init__(self) -> None:
        self.n_generated = 0
        self.n_disk_pages = self.n_preemptions = 0  # set before a scrape
        self.n_between = [0] * (len(_SHORT_S) + 1)  # by the bucket of the time between two tokens
        self.between_s = 0.0

    def add(self, n_tokens: int, gap_s: float | None) -> None:
        """A chunk of so many tokens; gap_s: since the one before it, if there was one."""
        self.n_generated += n_tokens
        if gap_s is not None:
            self.n_between[bisect_left(_SHORT_S, gap_s)] += 1
            self.between_s += gap_s


class _TokenCollector(Collector):
    """Tells Prometheus of the token counts."""

    def __init__(self, counts: dict[str, TokenCounts]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """One family of each kind."""
        pages = CounterMetricFamily(
            "pyroclast:prefix_cache_disk_pages", "KV cache blocks read from disk", labels=_LABEL
        )
        tokens = CounterMetricFamily("vllm:generation_tokens", "Tokens generated", labels=_LABEL)
        preempted = CounterMetricFamily(
            "vllm:num_preemptions", "Requests that gave up their blocks for others", labels=_LABEL
        )
        between = HistogramMetricFamily(
            "vllm:inter_token_latency_seconds", "Between two tokens of a choice", labels=_LABEL
        )
        bounds = [*(repr(float(bound)) for bound in _SHORT_S), "+Inf"]
        for model, found in self._counts.items():
            tokens.add_metric([model], found.n_generated)
            pages.add_metric([model], found.n_disk_pages)
            preempted.add_metric([model], found.n_preemptions)
            totals = accumulate(found.n_between)
            buckets = list(zip(bounds, map(float, totals), strict=True))
            between.add_metric([model], buckets, found.between_s)
        yield tokens
        yield between
        yield pages
        yield preempted


class _Families(Collector):
    """Gives what it was made of."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merged(texts: Mapping[str, bytes], label: str) -> bytes:
    """The metrics of several servers as one text.  Each name in `texts` becomes the value of a
    label of that server's samples."""
    families: dict[str, Metric] = {}
    for name, text in texts.items():
        for family in text_string_to_metric_families(text.decode()):
            whole = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                whole.add_sample(sample.name, sample.labels | {label: name}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)


class Metrics:
    """Counters of one server, in a registry of their own."""

    prompt_tokens: Counter
    cache_queries: Counter
    cache_hits: Counter
    drafted: Counter
    accepted: Counter
    failed: Counter
    cancelled: Counter
    running: Gauge
    waiting: Gauge
    cache_usage: Gauge
    first_token_s: Histogram
    whole_s: Histogram
    queue_s: Histogram
    request_prompt_tokens: Histogram
    request_generation_tokens: Histogram

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for field, (name, text) in _COUNTERS.items():
            setattr(self, field, Counter(name, text, _LABEL, registry=registry))
        for field, (name, text) in _GAUGES.items():
            setattr(self, field, Gauge(name, text, _LABEL, registry=registry))
        for field, (name, text, buckets) in _HISTOGRAMS.items():
            found = Histogram(name, text, _LABEL, buckets=buckets, registry=registry)
            setattr(self, field, found)
        self.finished = Counter(
            "vllm:request_success",
            "Choices that ended, by reason",
            (*_LABEL, "finished_reason"),
            registry=registry,
        )
        self.refused = Counter(
            "pyroclast:requests_refused",
            "Replies with status 4xx or 5xx",
            ("status",),
            registry=registry,
        )
        self.drafts_by_source = [
            Counter(name, text, (*_LABEL, "source"), registry=registry)
            for name, text in (
                ("pyroclast:draft_tokens", "Draft tokens tried, by where they came from"),
                ("pyroclast:accepted_draft_tokens", "Draft tokens that became text, likewise"),
            )
        ]
        self._tokens: dict[str, TokenCounts] = {}
        registry.register(_TokenCollector(self._tokens))
        self._before_scrape: list[Callable[[], None]] = []

    def tokens(self, model: str) -> TokenCounts:
        """The counts of a model."""
        return self._tokens.setdefault(model, TokenCounts())

    def count_refused(self, status: int) -> None:
        """A reply with status 4xx or 5xx."""
        self.refused.labels(str(status)).inc()

    def before_scrape(self, update: Callable[[], None]) -> None:
        """Calls `update` before each scrape: for gauges of what is there anyway."""
        self._before_scrape.append(update)

    def text(self) -> bytes:
        """Prometheus' text format."""
        for update in self._before_scrape:
            update()
        return generate_latest(self.registry)


class Watched:
    """Counts one request of `n` choices while its chunks pass."""

    def __init__(self, metrics: Metrics, model: str, n: int) -> None:
        self._metrics, self._model = metrics, model
        self._start_s = perf_counter()
        self._last_s: dict[int, float] = {}  # by the index of the choice
        self._began = self._failed = False
        self._n_open = n
        self._tokens = metrics.tokens(model)

    def chunk(self, chunk: Chunk) -> bool:
        """One chunk of any choice; whether it was the first."""
        now_s, is_first = perf_counter(), not self._began
        if is_first:
            self._began = True
            self._metrics.first_token_s.labels(self._model).observe(now_s - self._start_s)
            self._metrics.prompt_tokens.labels(self._model).inc(chunk.n_prompt_tokens)
            self._metrics.cache_queries.labels(self._model).inc(chunk.n_prompt_tokens)
            self._metrics.cache_hits.labels(self._model).inc(chunk.n_cached_tokens)
        last_s = self._last_s.get(chunk.index)
        self._tokens.add(len(chunk.token_ids), None if last_s is None else now_s - last_s)
        self._last_s[chunk.index] = now_s
        if chunk.finish_reason is not None:
            self._n_open -= 1
            self._metrics.finished.labels(self._model, chunk.finish_reason).inc()
        if chunk.completion is not None:
            timings = chunk.completion.timings
            for histogram, value in (
                (self._metrics.queue_s, timings.queue_s),
                (self._metrics.request_prompt_tokens, timings.n_prompt_tokens),
                (self._metrics.request_generation_tokens, timings.n_completion_tokens),
            ):
                histogram.labels(self._model).observe(value)
            self._metrics.drafted.labels(self._model).inc(timings.n_drafted_tokens)
            self._metrics.accepted.labels(self._model).inc(timings.n_accepted_tokens)
            tried, right = self._metrics.drafts_by_source
            for source, count in timings.drafts.items():
                tried.labels(self._model, source).inc(count.n_drafted)
                right.labels(self._model, source).inc(count.n_accepted)
        return is_first

    def failed(self) -> None:
        """The engine ended it with an error."""
        self._failed = True
        self._metrics.failed.labels(self._model).inc()

    def end(self) -> None:
        """No more chunks come."""
        if self._failed:
            return
        if self._n_open:
            self._metrics.cancelled.labels(self._model).inc()
        else:
            self._metrics.whole_s.labels(self._model).observe(perf_counter() - self._start_s)
