"""Structured output: which tokens a grammar allows next, by llguidance.

A `GrammarCompiler` belongs to a model's vocabulary.  It compiles what `SamplingParams.structured`
asks for; each request follows its text with a `Matcher` of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyroclast.errors import SamplingError
from pyroclast.sampling.after import after_reasoning
from pyroclast.sampling.deep_thread import DeadlineError, DeepTask
from pyroclast.sampling.schema import HELD_OPTIONS
from pyroclast.sampling.structured import AFTER, MAX_CHOICES
from pyroclast.sampling.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

COMPILE_S = 10.0
_ITEMS = 2000  # llguidance's own
_CHOICE_ITEMS = 2 * MAX_CHOICES  # choices that begin alike have an item each
_MAX_KEPT = 64  # grammars, compiled or refused
_MAX_REASON_CHARS = 600
# White space between JSON's tokens: some, because small models write better JSON with it, but not
# without end, because they may never stop.
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{0,20}"}


class GrammarCompiler:
    """Compiles for one vocabulary; safe to use from several threads.

    tokens: the bytes of every token.  encode: text -> token ids, for text that continues another.
    n_rows: the logits of a step, which may be more than the tokens."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        encode: Callable[[str], list[int]],
        *,
        special_ids: Sequence[int],
        eos_ids: Sequence[int],
        n_rows: int,
    ) -> None:
        self._vocabulary = Vocabulary(tokens, encode, special_ids, eos_ids, n_rows)
        self._n_rows = n_rows
        self._tokenizer: LLTokenizer | None = None
        # By the hash of what was asked for: what came of it, or why it is refused.
        self._kept: OrderedDict[bytes, LLMatcher | str] = OrderedDict()
        self._compiling: dict[bytes, DeepTask[LLMatcher | str]] = {}
        self._lock = threading.Lock()
        _compilers.add(self)

    def matcher(self, structured: Mapping[str, Any]) -> Matcher:
        """A matcher at the beginning of a text.  SamplingError: it cannot be compiled, and why."""
        key = hashlib.sha256(json.dumps(structured, sort_keys=True).encode()).digest()
        tokenizer = self._for_llguidance()
        own = DeepTask(lambda: self._compile(key, structured, tokenizer))
        try:
            with self._lock:
                found = self._kept.get(key)
                if found is not None:
                    self._kept.move_to_end(key)
                else:  # the first that asks for it compiles it for all
                    task = self._compiling.setdefault(key, own)
            if found is None and task is own:
                task.start()
        except BaseException:
            if self._compiling.get(key) is own:
                del self._compiling[key]
            raise
        if found is None:
            found = _result_of(task, structured)
        if isinstance(found, str):
            raise SamplingError(found)
        return Matcher(found.deep_copy(), self._n_rows)

    def renew(self) -> None:
        """In the child of a fork: the threads that compile, or held the lock, are not here."""
        self._lock = threading.Lock()
        self._compiling.clear()

    def _compile(
        self, key: bytes, structured: Mapping[str, Any], tokenizer: LLTokenizer
    ) -> LLMatcher | str:
        """In a thread of its own.  What comes too late for those who wait is kept all the same."""
        try:
            found = self._built(structured, tokenizer)
            with self._lock:
                self._kept[key] = found
                while len(self._kept) > _MAX_KEPT:
                    self._kept.popitem(last=False)
            return found
        finally:
            self._compiling.pop(key, None)

    def _built(self, structured: Mapping[str, Any], tokenizer: LLTokenizer) -> LLMatcher | str:
        kind = _kind(structured)
        try:
            source = self._source(kind, structured[kind], structured.get(AFTER))
            return _build(tokenizer, source, _CHOICE_ITEMS if kind == "choice" else _ITEMS)
        except ValueError as error:
            return _refusal(kind, str(error))

    def _source(self, kind: str, content: Any, after: Sequence[str] | None) -> str:
        source = _source(kind, content)
        if after is None:
            return source
        return after_reasoning(source, after, self._vocabulary.control)

    def _for_llguidance(self) -> LLTokenizer:
        """The vocabulary as llguidance wants it: made once, a second for 100,000 tokens."""
        with self._lock:
            if self._tokenizer is None:
                from llguidance import LLTokenizer, TokenizerWrapper

                self._tokenizer = LLTokenizer(
                    TokenizerWrapper(self._vocabulary),
                    eos_token=self._vocabulary.eos_ids,
                )
            return self._tokenizer


class Matcher:
    """Follows one text.  `ended`: the text is complete and nothing but its end may follow."""

    __slots__ = ("_matcher", "_n_words", "ended")

    def __init__(self, matcher: LLMatcher, n_rows: int) -> None:
        self._matcher = matcher
        self._n_words = -(-n_rows // 32)
        self.ended = matcher.is_stopped()

    def write_mask(self, address: int) -> None:
        """Writes a bit for each row of logits, uint32 (n_words,), at the address.  SamplingError
        where the grammar became too complex to go on."""
        self._matcher.unsafe_compute_mask_ptr(address, 4 * self._n_words)
        self._check()

    def accept(self, token_id: int) -> None:
        """One more token of the text."""
        if not self._matcher.consume_token(token_id):
            return  # told at the next mask
        self.ended = self._matcher.is_stopped()

    def allowed_of(self, token_ids: list[int]) -> list[int]:
        """The first of `token_ids`, as far as they may come next."""
        return token_ids[: self._matcher.validate_tokens(token_ids)]

    def copy(self) -> Matcher:
        """A matcher of its own that has followed the same text."""
        return Matcher(self._matcher.deep_copy(), 32 * self._n_words)

    def forced(self) -> list[int]:
        """The tokens that must come next, if only these can."""
        return [] if self.ended else self._matcher.compute_ff_tokens()

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise SamplingError(
                f"the grammar could not be followed: {_clipped(self._matcher.get_error())}"
            )


def _build(tokenizer: LLTokenizer, source: str, max_items: int) -> LLMatcher:
    """The matcher of a grammar, which has made its first mask.  max_items: states of the parser
    at one place.  ValueError: what is wrong."""
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(verbose_errors=False, max_items_in_row=max_items)
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=limits)
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    first = matcher.deep_copy()
    first.compute_bitmask()
    if first.is_error():
        raise ValueError(f"no text fulfils it ({first.get_error()})")
    return matcher


def _source(kind: str, content: Any) -> str:
    """The grammar in llguidance's own notation."""
    from llguidance import LLMatcher, grammar_from

    if kind == "json_object":
        return LLMatcher.grammar_from_json_schema('{"type": "object"}', _JSON_OPTIONS, HELD_OPTIONS)
    if kind == "json":
        own = '"x-guidance"' in content  # llguidance's options, which the schema itself may bring
        return LLMatcher.grammar_from_json_schema(
            content, None if own else _JSON_OPTIONS, HELD_OPTIONS
        )
    if kind == "choice":
        return grammar_from("choice", json.dumps(content))
    if kind == "regex":
        return LLMatcher.grammar_from_regex(content)
    return grammar_from("grammar", content)


def _result_of(task: DeepTask[LLMatcher | str], structured: Mapping[str, Any]) -> LLMatcher | str:
    try:
        return task.result(COMPILE_S)
    except DeadlineError:
        return _refusal(_kind(structured), f"it takes longer than {COMPILE_S:g} seconds")


def _kind(structured: Mapping[str, Any]) -> str:
    [kind] = (key for key in structured if key != AFTER)
    return kind


def _refusal(kind: str, reason: str) -> str:
    if "coerce_one_of" in reason:  # llguidance offers an option that holds less than the schema
        reason = "oneOf is not supported where two of its schemas may hold for one text; use anyOf"
    return f"structured[{kind!r}] cannot be compiled: {_clipped(reason)}"


def _clipped(reason: str) -> str:
    reason = " ".join(reason.split())
    return reason if len(reason) <= _MAX_REASON_CHARS else reason[:_MAX_REASON_CHARS] + "..."


_compilers: weakref.WeakSet[GrammarCompiler] = weakref.WeakSet()


def _renew_all() -> None:
    for compiler in list(_compilers):
        compiler.renew()


os.register_at_fork(after_in_child=_renew_all)
