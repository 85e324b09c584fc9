"""From what callers hand in to requests.  Everything is checked before the first is queued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyroclast.engine import checks
from pyroclast.engine import continuations as continuation
from pyroclast.engine.call import Call
from pyroclast.engine.checks import Params, Prompts
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.output import Score
from pyroclast.engine.pooling import Pooled
from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.roots import Roots
from pyroclast.engine.text_decoder import PaddedTextDecoder, TextDecoder
from pyroclast.sampling.params import SamplingParams

if TYPE_CHECKING:
    from pyroclast.engine.read_request import OnRows
    from pyroclast.sampling.grammar import GrammarCompiler, Matcher
    from pyroclast.text.tokenizer import Tokenizer


class Intake:
    """Reads prompts for one model: its tokenizer, its rows of logits, its context."""

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, max_seq_len: int, prefix_cache: bool
    ) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.max_seq_len = max_seq_len
        self._roots = Roots(shared=prefix_cache)
        self._grammars: GrammarCompiler | None = None  # made when the first grammar comes

    def encode(self, prompts: Prompts, add_special_tokens: bool = True) -> list[list[int]]:
        """The token ids of each prompt."""
        items = checks.as_list(prompts)
        return [
            self._encode(item, _where(i, len(items)), add_special_tokens)
            for i, item in enumerate(items)
        ]

    def encode_one(
        self,
        prompt: Any,
        method: str,
        remedy: str = "",
        add_special_tokens: bool = True,
    ) -> list[int]:
        """The token ids of the one prompt that `method` takes."""
        items = checks.as_list(prompt) or [[]]  # an empty list is an empty prompt here
        checks.check_one(len(items), method, remedy)
        return self._encode(items[0], "the prompt", add_special_tokens)

    def encode_chat(self, messages: Any, template: Mapping[str, Any] | None) -> list[int]:
        token_ids = self._tokenizer.encode_chat(messages, **checks.template_variables(template))
        return self._encode(token_ids, "the conversation")

    def check_fits(self, token_ids: list[int]) -> None:
        """Raises unless the model can read the prompt."""
        checks.check_fits(len(token_ids), self.max_seq_len, "the prompt")

    def generate_requests(
        self,
        encoded: list[list[int]],
        params: Params,
        call: Call,
        *,
        continues_text: bool,
        n_answered: int = 0,
    ) -> list[GenerateRequest]:
        """`n` requests for each prompt; those of one prompt share its blocks.  n_answered: how many
        of each prompt's last tokens penalties count as the answer's."""
        each_params = checks.as_params(params, len(encoded))
        adapters = call.adapters(len(encoded))
        limits = self._limits(encoded, each_params, n_answered)
        requests: list[GenerateRequest] = []
        for i, (token_ids, each) in enumerate(zip(encoded, each_params, strict=True)):
            seed, stop_ids = each.fixed_seed(), self._stop_ids(each)
            root = self._roots.of(call, each.cache_salt, adapters[i].fingerprint)
            for index in range(each.n):
                request = GenerateRequest(
                    list(token_ids),
                    call,
                    params=each,
                    seed=seed,
                    decoder=self._decoder(each, continues_text),
                    stop_ids=stop_ids,
                    max_tokens=limits[i],
                    prompt_index=i,
                    index=index,
                    root=root,
                    matcher=self.matcher(each),
                    n_answered=n_answered,
                    adapter=adapters[i],
                )
                requests.append(request)
        return requests

    def _limits(
        self, encoded: list[list[int]], params: Sequence[SamplingParams], n_answered: int
    ) -> list[int]:
        """max_tokens of each prompt.  What cannot be is refused before any request is made."""
        limits = []
        for i, (token_ids, each) in enumerate(zip(encoded, params, strict=True)):
            each.check_vocabulary(self.vocab_size)
            where, n_prompt = _where(i, len(encoded)), len(token_ids)
            checks.check_answered(n_answered, n_prompt)
            self.matcher(each)  # compiled, and kept
            limits.append(checks.resolve_max_tokens(each, n_prompt, self.max_seq_len, where))
        return limits

    def score_requests(
        self, prompts: Prompts, n_top: int, call: Call, continuations: Prompts | None = None
    ) -> tuple[list[Score], list[ReadRequest]]:
        """A score for each prompt, or for each continuation of one, and the requests that fill
        them in."""
        checks.check_n_top(n_top)
        texts = self._texts_to_score(prompts, continuations)
        for i, (token_ids, _) in enumerate(texts):
            checks.check_fits(len(token_ids), self.max_seq_len, _where(i, len(texts)))
        scores = [Score(token_ids, [None] * len(token_ids)) for token_ids, _ in texts]
        requests = [
            ReadRequest(
                score.token_ids[:-1],
                call,
                targets=score.token_ids[1:],
                scored=score.logprobs,
                n_top=n_top,
                first_row=max(n_context - 1, 0),
                root=self.root(call),
            )
            for score, (_, n_context) in zip(scores, texts, strict=True)
            if len(score.token_ids) > 1
        ]
        return scores, requests

    def _texts_to_score(
        self, prompts: Prompts, continuations: Prompts | None
    ) -> list[tuple[list[int], int]]:
        """Each text's token ids, and how many of them are only its context."""
        if continuations is None:
            return [(token_ids, 0) for token_ids in self.encode(prompts)]
        pairs = continuation.pairs(prompts, continuations)
        return [
            continuation.encode_pair(
                self._encode, *pair, "the continuation" if len(pairs) == 1 else f"continuation {i}"
            )
            for i, pair in enumerate(pairs)
        ]

    def embed_requests(
        self, prompts: Prompts, pooling: str, call: Call
    ) -> tuple[list[Pooled], list[ReadRequest]]:
        """A pool for each prompt, and the requests that fill them."""
        encoded = self.encode(prompts)
        for i, token_ids in enumerate(encoded):
            checks.check_fits(len(token_ids), self.max_seq_len, _where(i, len(encoded)))
        pools = [Pooled(len(token_ids), pooling) for token_ids in encoded]
        requests = [
            ReadRequest(token_ids, call, on_states=pool.add, root=self.root(call))
            for token_ids, pool in zip(encoded, pools, strict=True)
        ]
        return pools, requests

    def read_request(self, token_ids: list[int], call: Call, on_rows: OnRows) -> ReadRequest:
        """A request that hands out the logits after each token."""
        return ReadRequest(token_ids, call, on_rows=on_rows, root=self.root(call))

    def root(self, call: Call) -> bytes:
        """What the prefix cache tells requests apart by, beside their tokens."""
        return self._roots.of(call, adapter=call.adapter.fingerprint)

    def _encode(self, prompt: Any, where: str, add_special_tokens: bool = True) -> list[int]:
        tokenizer, size = self._tokenizer, self.vocab_size
        return checks.encode(prompt, tokenizer, size, where, add_special_tokens)

    def _decoder(self, params: SamplingParams, continues_text: bool) -> TextDecoder:
        """Rows of logits that only pad the output matrix can be drawn, but have no text."""
        decoder = self._tokenizer.decoder(
            skip_special_tokens=params.skip_special_tokens, continuation=continues_text
        )
        n_tokens = self._tokenizer.vocab_size
        return decoder if n_tokens >= self.vocab_size else PaddedTextDecoder(decoder, n_tokens)

    def matcher(self, params: SamplingParams) -> Matcher | None:
        """What the text of one request must look like."""
        if params.structured is None:
            return None
        if self._grammars is None:
            from pyroclast.sampling.grammar import GrammarCompiler

            tokenizer = self._tokenizer
            self._grammars = GrammarCompiler(
                [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)],
                lambda text: tokenizer.encode(text, add_special_tokens=False, parse_special=False),
                special_ids=sorted(tokenizer.special_token_ids),
                eos_ids=sorted(tokenizer.eos_token_ids),
                n_rows=self.vocab_size,
            )
        return self._grammars.matcher(params.structured)

    def _stop_ids(self, params: SamplingParams) -> dict[int, str | int]:
        """The tokens that end a text, and what is reported as the reason."""
        tokenizer = self._tokenizer
        stop_ids: dict[int, str | int] = {}
        if not params.ignore_eos:
            stop_ids.update((token_id, token_id) for token_id in tokenizer.eos_token_ids)
        stop_ids.update((token_id, token_id) for token_id in params.stop_token_ids)
        for stop in params.stop:
            # A control token never shows in the text, so its name would wait there in vain.
            token_ids = tokenizer.encode(stop, add_special_tokens=False)
            if len(token_ids) == 1 and not tokenizer.decode(token_ids):
                stop_ids[token_ids[0]] = stop
        return stop_ids


def _where(i: int, n_prompts: int) -> str:
    return "the prompt" if n_prompts == 1 else f"prompt {i} (of {n_prompts}, counted from 0)"
