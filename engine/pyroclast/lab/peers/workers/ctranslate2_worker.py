"""Worker for CTranslate2: weights converted to 8 bits, from a folder in transformers' layout.

It is timed in generate_batch: a prompt is read in one step, and one token is chosen after it.  A
depth is its cached static prompt.  Decoding is timed from the first token to the last, by its
callback.  It decodes the tokens that it chose, not ours.
"""

import json
import time
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from protocol import serve
from tokens import texts


class Worker:
    """One model; every request is a method."""

    def convert(self, source: str, target: str) -> None:
        """Converts a folder in transformers' layout to what CTranslate2 reads."""
        from ctranslate2.converters import TransformersConverter

        converter = TransformersConverter(source, load_as_float16=True, low_cpu_mem_usage=True)
        converter.convert(target, quantization="int8")

    def load(
        self, model: str, workloads: list[dict[str, Any]], threads: int, compute_type: str
    ) -> dict[str, Any]:
        """Loads a converted folder; says what it computes in."""
        del workloads  # its cache grows as it goes
        self.generator = ctranslate2.Generator(
            model, device="cpu", compute_type=compute_type, intra_threads=threads, inter_threads=1
        )
        path = Path(model) / "vocabulary.json"
        self.vocabulary: list[str] = json.loads(path.read_text(encoding="utf-8"))
        self.found: Any = None
        return {
            "version": f"CTranslate2 {ctranslate2.__version__}",
            "compute_type": self.generator.compute_type,
        }

    def run(self, workload: dict[str, Any]) -> float:
        """Seconds of one repetition."""
        n_seqs, depth, n_gen = workload["n_batch"], workload["n_depth"], workload["n_gen"]
        if depth and n_seqs > 1:
            raise RuntimeError("all sequences share its static prompt: no depth of their own")
        self.found = None
        context = self._words(1, 0, depth)[0]
        if n_gen:
            # Decoding begins with the last token of the context, or with each sequence's first.
            prompts = [context[-1:]] if depth else self._words(n_seqs, 0, 1)
            times = self._generate(prompts, context[:-1], n_gen + 1)[0]
            return float(times[n_gen] - times[0])
        prompts = self._words(n_seqs, depth, depth + workload["n_prompt"])
        if depth:
            self._generate([prompts[0][:1]], context, 1)
        start = time.perf_counter()
        _, self.found = self._generate(prompts, context, 1)
        return time.perf_counter() - start

    def logits(self) -> list[float] | None:
        """After a prompt, of the last token of the last sequence; None after decoding."""
        return None if self.found is None else [float(x) for x in np.array(self.found)]

    def _words(self, n_seqs: int, begin: int, end: int) -> list[list[str]]:
        ids = texts(n_seqs, begin, end, len(self.vocabulary))
        return [[self.vocabulary[i] for i in row] for row in ids]

    def _generate(
        self, prompts: list[list[str]], context: list[str], n_tokens: int
    ) -> tuple[list[float], Any]:
        """(When the last sequence had each of its tokens, in seconds; its logits of the first)."""
        times = [0.0] * n_tokens

        def note(step: Any) -> bool:
            times[step.step] = time.perf_counter()
            return False

        found = self.generator.generate_batch(
            prompts,
            static_prompt=context or None,
            max_length=n_tokens,
            # A minimum of 1 would mask the end of text in the logits that a prompt gives.
            min_length=n_tokens if n_tokens > 1 else 0,
            include_prompt_in_result=False,
            return_logits_vocab=n_tokens == 1,
            callback=note,
        )
        if n_tokens > 1 and any(len(each.sequences_ids[0]) != n_tokens for each in found):
            raise RuntimeError(f"not every sequence has the {n_tokens} tokens asked for")
        return times, found[-1].logits[0][0] if n_tokens == 1 else None


if __name__ == "__main__":
    worker = Worker()
    serve({name: getattr(worker, name) for name in ("convert", "load", "run", "logits")})
