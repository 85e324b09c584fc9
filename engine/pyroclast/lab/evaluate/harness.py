"""Pyroclast as a model of EleutherAI's lm-evaluation-harness (package lm-eval), in process.

    python -m pyroclast.lab.evaluate.harness run --model pyroclast --model_args model=model.gguf ...

takes what `lm_eval` takes; model_args are those of `LLM`.  In Python, importing this module
registers the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from pyroclast.errors import RequestError
from pyroclast.llm import LLM
from pyroclast.sampling.params import SamplingParams

_MAX_GENERATED = 256  # lm-eval's default of max_gen_toks
_OPTIONS_OF_ITS_OWN = ("batch_size", "max_batch_size", "device")  # steps choose their own batches
Pair = tuple[list[int], list[int]]


@register_model("pyroclast")
class HarnessModel(TemplateLM):  # type: ignore[misc]
    """An LLM for lm-eval.  model: what `LLM` loads, or a loaded LLM; options: those of `LLM`."""

    def __init__(self, model: str | LLM, **options: Any) -> None:
        super().__init__()
        for name in _OPTIONS_OF_ITS_OWN:
            options.pop(name, None)
        self.llm = model if isinstance(model, LLM) else LLM(model, **options)

    @property
    def eot_token_id(self) -> int:
        """The first of the tokens that end a text."""
        ids = sorted(self.llm.tokenizer.eos_token_ids)
        if not ids:
            raise RequestError(
                "this model has no end-of-text token, which lm-eval begins texts with"
            )
        return ids[0]

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context begins with: BOS, where there is one."""
        bos = self.llm.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return self.llm.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """As `LLM.generate` encodes a prompt, unless add_special_tokens is False."""
        return self.llm.tokenizer.encode(string, add_special_tokens=add_special_tokens is not False)

    def apply_chat_template(
        self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as the model's template writes it."""
        return self.llm.tokenizer.apply_chat_template(list(chat_history), add_generation_prompt)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """(logprob, whether greedy decoding would have written it) of each continuation."""
        return self._scored([(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The logprob of whole texts, the first token included; long ones in windows."""
        del disable_tqdm
        found = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.llm.max_seq_len - 1,
                context_len=1,
            )
            pairs = [make_disjoint_window(each) for each in windows]
            found.append(sum(logprob for logprob, _ in self._scored(pairs)))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to a stop string; all in one batch."""
        del disable_tqdm
        prompts, params = [], []
        for request in requests:
            context, given = request.args
            each = self._params(dict(given))
            room = self.llm.max_seq_len - (each.max_tokens or 1)
            prompts.append(self.tok_encode(context)[-max(1, room) :])
            params.append(each)
        return [answer.text for answer in self.llm.generate(prompts, params)] if prompts else []

    def _params(self, given: dict[str, Any]) -> SamplingParams:
        """SamplingParams of lm-eval's generation_kwargs."""
        until = given.pop("until", None) or []
        samples = given.pop("do_sample", None)
        temperature = given.pop("temperature", None)
        if not samples or temperature is None:
            temperature = 1.0 if samples else 0.0
        max_tokens = given.pop("max_gen_toks", given.pop("max_tokens", _MAX_GENERATED))
        return SamplingParams(
            stop=[until] if isinstance(until, str) else [text for text in until if text],
            temperature=temperature,
            max_tokens=min(int(max_tokens), self.llm.max_seq_len - 1),
            **given,
        )

    def _scored(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """Scores, of which long texts lose the beginning of their context."""
        if not pairs:
            return []
        contexts, continuations = [], []
        for context, continuation in pairs:
            room = self.llm.max_seq_len - len(continuation)
            if room < 1:
                raise RequestError(
                    f"a continuation of {len(continuation)} tokens does not fit the context of "
                    f"{self.llm.max_seq_len} tokens"
                )
            contexts.append(context[-room:])
            continuations.append(continuation)
        scores = self.llm.score(contexts, continuations)
        return [(score.logprob, score.is_greedy) for score in scores]


def main() -> None:
    """The command line of lm_eval, with this model registered."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
