"""Every call into `tokenizers` goes through here, so that its failures are TokenizerErrors.

`tokenizers` is native code that raises plain Exceptions and, where it panics, a PanicException: a
BaseException, which `except Exception` does not catch.  A KeyboardInterrupt passes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pyroclast.errors import TokenizerError
from pyroclast.text.control_names import ControlNames

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

    from pyroclast.text.encoding_process import EncodingProcess

# Stands for a control token in a text of which nothing else may become one.  Nobody can spell it:
# it is another one in each process.
_NONCE = os.urandom(16).hex()
CUT = f"\ufdd0{_NONCE}\ufdd1"
CUT_WITHIN = f"\ufdd0{_NONCE}\ufdd2"  # the same, of a token after which no new text begins
CUTS = [CUT, CUT_WITHIN]
CUT_ID = -1

_MAX_REASON_CHARS = 300  # a native message may quote the whole file

P = ParamSpec("P")
T = TypeVar("T")


def call_native(what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """function(*args, **kwargs); whatever goes wrong in it is a TokenizerError that begins with
    `what`."""
    try:
        return function(*args, **kwargs)
    except TokenizerError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise  # KeyboardInterrupt, SystemExit
        # No cause: its text may be as long as the file, and a traceback would print it.
        raise TokenizerError(f"{what}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= _MAX_REASON_CHARS else text[:_MAX_REASON_CHARS] + "..."


class DummyPrefix:
    """SentencePiece's dummy prefix: a space before a text, and after each control token in it.

    It becomes part of the text and is not a normalizer's step, because that would also change the
    user-defined tokens, which are found in the normalized text.
    """

    def __init__(self, space: str, control: Mapping[str, AddedToken]) -> None:
        self._space = space
        self._control = control
        self._names = ControlNames(control)

    def of_text(self, text: str) -> str:
        """The text in which control tokens count."""
        pieces, end = [], 0
        for start, name in self._names.found(text, b"\1" * len(text)):
            if start < end:
                continue
            if start > end:
                pieces += [self._space, text[end:start]]
            end = start + len(name)
            if self._control[name].rstrip:
                end = len(text) - len(text[end:].lstrip())
            pieces.append(text[start:end])
        if end < len(text):
            pieces += [self._space, text[end:]]
        return "".join(pieces)

    def of_plain(self, text: str) -> str:
        """The text in which only CUTS are tokens."""
        return CUT.join([self._space + piece if piece else "" for piece in text.split(CUT)])


class NativeTokenizer:
    """A `tokenizers.Tokenizer` whose every call is guarded.  Safe to use from several threads.

    `process` is where texts are encoded that this process may not be able to finish; `plain` reads
    no control tokens, and gives CUT_ID for each of CUTS.
    """

    def __init__(
        self,
        backend: Backend,
        process: EncodingProcess | None = None,
        plain: Sequence[str] | None = None,
        prefix: DummyPrefix | None = None,
    ) -> None:
        self.backend = backend
        self.process = process
        self.prefix = prefix
        self._plain = plain
        self._cut_ids = [] if plain is None else [self.token_to_id(cut) for cut in CUTS]

    @classmethod
    def from_json(cls, text: str, what: str) -> NativeTokenizer:
        """The tokenizer in the text of a tokenizer.json; `what` begins the message of an error."""
        from tokenizers import Tokenizer as BackendType

        backend = call_native(what, BackendType.from_str, text)
        call_native(what, backend.no_truncation)
        call_native(what, backend.no_padding)
        return cls(backend)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """text -> token ids.  `add_special_tokens` runs the file's post-processor."""
        if not isinstance(text, str):
            raise TokenizerError(f"text must be a str, got {type(text).__name__}")
        try:
            if self.process is not None:
                return self.process.encode(text, self._plain, CUTS, add_special_tokens)
            return call_native("the text cannot be encoded", self._encode, text, add_special_tokens)
        except TokenizerError:
            _check_unicode(text)
            raise

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if self.prefix is not None:
            text = (
                self.prefix.of_plain(text) if self._plain is not None else self.prefix.of_text(text)
            )
        ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        cuts = self._cut_ids
        return [CUT_ID if i in cuts else i for i in ids] if cuts else ids

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, added tokens among them."""
        return call_native("a token cannot be looked up", self.backend.token_to_id, token)

    def id_to_token(self, token_id: int) -> str | None:
        """The spelling of an id, added tokens among them."""
        return call_native("a token cannot be looked up", self.backend.id_to_token, token_id)

    def added_tokens(self) -> dict[int, AddedToken]:
        """The added tokens by id: control tokens and others that are found before a text is cut."""
        added: dict[int, AddedToken] = call_native(
            "the added tokens cannot be read", self.backend.get_added_tokens_decoder
        )
        return added

    def add_tokens(self, tokens: Iterable[AddedToken], *, special: bool) -> None:
        """Have tokens found in a text before it is cut."""
        add = self.backend.add_special_tokens if special else self.backend.add_tokens
        call_native("the added tokens cannot be used", add, list(tokens))

    def vocab_size(self) -> int:
        """How many tokens there are, added ones among them."""
        return call_native("the vocabulary cannot be counted", self.backend.get_vocab_size, True)

    def state(self, part: str) -> Any:
        """What tokenizer.json says of the "normalizer", "pre_tokenizer" or "decoder", as a JSON
        value; None where there is none."""
        component = getattr(self.backend, part)
        if component is None:
            return None
        return json.loads(call_native(f"the {part} cannot be read", component.__getstate__))

    def unknown_token(self) -> str | None:
        """What a character becomes that the vocabulary does not have."""
        token = getattr(self.backend.model, "unk_token", None)
        return token if isinstance(token, str) else None

    def model_ids(self, word: str) -> list[int]:
        """The ids of a word in the vocabulary's own spelling."""
        tokens = call_native("a word cannot be encoded", self.backend.model.tokenize, word)
        return [token.id for token in tokens]

    def without_control_tokens(self, names: Iterable[str]) -> NativeTokenizer:
        """A tokenizer over the same model (shared, not copied) that reads no tokens of these names.
        It gives CUT_ID for each of CUTS."""
        names = tuple(names)
        what = "a tokenizer without control tokens cannot be made"
        backend = call_native(what, _without_control_tokens, self.backend, names)
        return NativeTokenizer(backend, self.process, names, self.prefix)


def _without_control_tokens(backend: Backend, names: Sequence[str]) -> Backend:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as BackendType

    plain = BackendType(backend.model)
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        plain.pre_tokenizer = backend.pre_tokenizer
    added = sorted(backend.get_added_tokens_decoder().items())
    # As few calls as their order allows: each builds the search for all tokens anew, which took
    # 12 s for the 6,250 of Gemma 3, one by one.
    for special, run in groupby(added, key=lambda item: item[1].special):
        (plain.add_special_tokens if special else plain.add_tokens)([token for _, token in run])
    if any(plain.token_to_id(token.content) != token_id for token_id, token in added):
        # Ids with gaps do not survive being added again.
        plain = BackendType.from_str(backend.to_str())
    plain.add_special_tokens(list(names))
    plain.encode_special_tokens = True
    plain.add_tokens([AddedToken(cut, normalized=False) for cut in CUTS])
    return plain


def _check_unicode(text: str) -> None:
    """Refuse lone surrogates, by place."""
    for i, char in enumerate(text):
        if "\ud800" <= char <= "\udfff":
            raise TokenizerError(
                f"text is not valid Unicode: a lone surrogate (U+{ord(char):04X}) at character {i}"
            )
