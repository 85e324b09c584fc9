"""Records a real generation: what Python, the tokenizer and every thread did, and when.

The engine runs as usual.  Two objects stand between it and its model and tokenizer, and note the
times of the calls that pass through.  The executor records every part (timeline.py).  Times are
nanoseconds of time.perf_counter_ns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.llm import assemble
from pyroclast.model.model import load_model
from pyroclast.progress import progress_bar
from pyroclast.sampling.params import SamplingParams
from pyroclast_kernels.program import OpCall
from pyroclast_kernels.tables import FEW_TOKENS
from pyroclast_kernels.timeline import TimelineRecorder, TimelineRun

if TYPE_CHECKING:
    from pyroclast.engine.output import Completion
    from pyroclast.engine.step_model import StepModel
    from pyroclast.text.tokenizer import Tokenizer

_SPARE_RUNS = 4


@dataclass(frozen=True)
class Span:
    """Some time of the calling thread.  name: "encode" or "decode" (tokenizer), or "step"."""

    name: str
    begin_ns: int
    end_ns: int

    @property
    def ns(self) -> int:
        return self.end_ns - self.begin_ns


@dataclass(frozen=True)
class RecordedStep:
    """One forward pass.  span: as the engine saw it; run: as the executor did."""

    span: Span
    run: TimelineRun
    n_tokens: int
    count: Any  # where its calls read n_tokens

    def variant(self, call: OpCall) -> str:
        """The variant that ran.  A call that does not read the step's count has one token."""
        many = call.many is not None and call.n_tokens is self.count
        split = many and self.n_tokens > FEW_TOKENS
        return call.many.variant if call.many is not None and split else call.kernel.variant


@dataclass(frozen=True)
class Recorded:
    """A generation from the call to its return.  texts: what the tokenizer did, in order."""

    begin_ns: int
    end_ns: int
    steps: tuple[RecordedStep, ...]
    texts: tuple[Span, ...]
    n_threads: int
    completion: Completion

    @property
    def wall_ns(self) -> int:
        return self.end_ns - self.begin_ns


class Watch:
    """Notes when calls begin and end, in `spans`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter_ns()
            try:
                return function(*args, **kwargs)
            finally:
                self.spans.append(Span(name, begin, time.perf_counter_ns()))

        return timed


class _Watched:
    """A stand-in for `target`.  names: method -> the name of its spans, for the timed methods."""

    def __init__(self, target: Any, watch: Watch, names: dict[str, str]) -> None:
        self._target = target
        for method, name in names.items():
            setattr(self, method, watch.wrap(name, getattr(target, method)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class _WatchedTokenizer(_Watched):
    def __init__(self, target: Any, watch: Watch) -> None:
        super().__init__(target, watch, {"encode": "encode"})
        self._watch = watch

    def decoder(self, **options: Any) -> Any:
        names = {"step": "decode", "flush": "decode"}
        return _Watched(self._target.decoder(**options), self._watch, names)


class ProfiledLLM:
    """An LLM whose generations are recorded; a context manager.  load_s: what loading took."""

    def __init__(self, model: str | Path, **options: Any) -> None:
        begin, self._watch = time.perf_counter(), Watch()
        with open_checkpoint(model) as checkpoint:
            tokenizer = checkpoint.tokenizer()
            with progress_bar(checkpoint.config.n_layers, "layer") as show:
                self.model = load_model(
                    checkpoint, on_layer=show, max_seqs=1, max_logits=1, **options
                )
            name = checkpoint.name
        watched = _Watched(self.model, self._watch, {"forward": "step"})
        watched_tokenizer = _WatchedTokenizer(tokenizer, self._watch)
        step_model, reader = cast("StepModel", watched), cast("Tokenizer", watched_tokenizer)
        # The recorded prompt is that of the warm-up: it must be read, not found.
        self.llm = assemble(step_model, reader, name, prefix_cache=False)
        self.load_s = time.perf_counter() - begin

    def record(self, prompt: str | Sequence[int], params: SamplingParams) -> Recorded:
        """Records one generation.  Run one before: the first is slower than the rest."""
        ids = self.llm.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        most, n_prompt = self.model.max_batch_tokens, len(ids)
        assert params.max_tokens is not None, "the command gives a number"
        n_runs = -(-n_prompt // most) + params.max_tokens + _SPARE_RUNS
        programs = [self.model.program(sample=True), self.model.program(sample=False)]
        self._watch.spans.clear()
        with TimelineRecorder(programs, n_runs) as recorder:
            begin = time.perf_counter_ns()
            [completion] = self.llm.generate(
                prompt if isinstance(prompt, str) else list(prompt), params
            )
            end = time.perf_counter_ns()
        spans = [span for span in self._watch.spans if span.name == "step"]
        texts = tuple(span for span in self._watch.spans if span.name != "step")
        steps = []
        for span, run in zip(spans, recorder.runs(), strict=True):
            n_tokens = min(max(n_prompt, 1), most)
            steps.append(RecordedStep(span, run, n_tokens, self.model.batch.n_tokens_at))
            n_prompt -= n_tokens
        return Recorded(begin, end, tuple(steps), texts, self.model.n_threads, completion)

    def close(self) -> None:
        self.llm.close()

    def __enter__(self) -> ProfiledLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
