r"""GGUF metadata -> a `Vocabulary`.

Byte-level BPE (`tokenizer.ggml.model` = "gpt2") with its `tokenizer.ggml.pre` rule, and
SentencePiece BPE ("llama") with scores and byte fallback.

Two decisions differ from llama.cpp and follow the model's own tokenizer.  SentencePiece merges
never form a control, byte or unused token, so a typed "</s>" stays text.  A vocabulary without
scores, merges or a known rule is an error.  Unicode is not normalised: some originals apply NFC
first, which GGUF does not record, and decoding would not return the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from pyroclast.errors import TokenizerError
from pyroclast.text.decoding import SPACE, Decoding
from pyroclast.text.gguf_keys import (
    KEY,
    merges,
    named_tokens,
    special_id,
    surrounding,
    templates,
)
from pyroclast.text.native_tokenizer import DummyPrefix, NativeTokenizer, call_native
from pyroclast.text.pretokenizers import PreRule, pre_rule
from pyroclast.text.vocab import (
    END_OF_TURN,
    Vocabulary,
    byte_level_alphabet,
    check_added_tokens,
    end_ids,
    is_end_of_turn,
    padded_size,
)

if TYPE_CHECKING:
    from tokenizers import AddedToken

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # ggml's token types
# Finding the pairs of a token takes time with the square of its length.  The sum of squares of
# Gemma's 262,144 tokens is 2e7; they have 2 pairs each.
_MAX_PIECE_CHARS = 4096
_MAX_SQUARES = 1 << 30
_MAX_PAIRS_PER_TOKEN = 16


def vocabulary_from_gguf(metadata: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary in GGUF metadata; a TokenizerError says what is missing or unknown."""
    model = metadata.get(KEY + "model")
    if model not in ("gpt2", "llama"):
        raise TokenizerError(
            f"tokenizer.ggml.model is {model!r}; supported: 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece BPE)" + ("; this file carries no vocabulary" if model is None else "")
        )
    tokens = _tokens(metadata)
    types = _array(metadata, "token_type", len(tokens)) or [_NORMAL] * len(tokens)
    if model == "gpt2":
        rule = pre_rule(metadata.get(KEY + "pre", "default"))
        backend = _byte_level_backend(metadata, tokens, rule)
        defaults = _Defaults(add_bos=rule.add_bos)
    else:
        backend = _sentencepiece_backend(metadata, tokens, types)
        defaults = _Defaults(add_bos=True, bos=1, eos=2)
    ids_of_type = _group(_with_ends(types, tokens, backend))
    _add_tokens(backend, metadata, tokens, ids_of_type)
    return _vocabulary(metadata, tokens, ids_of_type, backend, defaults)


@dataclass(frozen=True)
class _Defaults:
    """What applies where the file says nothing."""

    add_bos: bool
    bos: int | None = None
    eos: int | None = None


def _vocabulary(
    metadata: Mapping[str, Any],
    tokens: list[str],
    ids_of_type: Mapping[int, Sequence[int]],
    backend: NativeTokenizer,
    defaults: _Defaults,
) -> Vocabulary:
    byte_level = metadata[KEY + "model"] == "gpt2"
    bos = special_id(metadata, "bos_token_id", len(tokens), defaults.bos)
    eos = special_id(metadata, "eos_token_id", len(tokens), defaults.eos)
    special = {i for kind in (_CONTROL, _UNKNOWN, _UNUSED) for i in ids_of_type.get(kind, ())}
    own = special | set(ids_of_type.get(_USER_DEFINED, ()))
    raw = own if byte_level else special  # SentencePiece spells a space in a user-defined token ▁
    ends = {
        eos,
        special_id(metadata, "eot_token_id", len(tokens), None),
        special_id(metadata, "eom_token_id", len(tokens), None),
        *end_ids((i, tokens[i], i in special) for i in own),
    }
    alphabet = byte_level_alphabet() if byte_level else {}
    return Vocabulary(
        backend=backend,
        decoding=Decoding(byte_level=True) if byte_level else _pieces_decoding(metadata),
        size=max(
            len(tokens),
            padded_size(metadata.get(f"{metadata.get('general.architecture')}.vocab_size")),
        ),
        token_text=lambda i: tokens[i] if i < len(tokens) else None,
        raw_ids=frozenset(raw),
        special_ids=frozenset(special),
        prefix_ids=surrounding(metadata, "bos", bos, defaults.add_bos),
        suffix_ids=surrounding(metadata, "eos", eos, False),
        bos_token_id=bos,
        eos_token_ids=frozenset(i for i in ends if i is not None),
        chat_templates=templates(metadata),
        named_tokens=named_tokens(metadata, tokens, bos, eos),
        lossy_bytes=frozenset(b for c, b in alphabet.items() if backend.token_to_id(c) is None),
    )


def _with_ends(types: list[Any], tokens: list[str], backend: NativeTokenizer) -> list[Any]:
    """The types, with tokens that end a turn made control tokens: some exports call them normal or
    user-defined.  A name alone is not enough: a word that text becomes stays one."""
    types = list(types)
    for name in END_OF_TURN.intersection(tokens):
        i = tokens.index(name)  # the only place: no token is there twice
        if types[i] not in (_NORMAL, _USER_DEFINED):
            continue
        if is_end_of_turn(name, special=False) and i not in backend.encode(name):
            types[i] = _CONTROL
    return types


def _pieces_decoding(metadata: Mapping[str, Any]) -> Decoding:
    n_stripped = 1 if _adds_space_prefix(metadata) else 0
    return Decoding(replaced=((SPACE, " "),), byte_fallback=True, n_stripped=n_stripped)


def _adds_space_prefix(metadata: Mapping[str, Any]) -> bool:
    return bool(metadata.get(KEY + "add_space_prefix", True))


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    tokens = metadata.get(KEY + "tokens")
    if not isinstance(tokens, list) or set(map(type, tokens)) != {str}:
        raise TokenizerError("tokenizer.ggml.tokens is missing, empty, or not an array of strings")
    if "" in tokens:
        return [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    return list(tokens)


def _array(metadata: Mapping[str, Any], name: str, n_tokens: int) -> list[Any] | None:
    """An array with a number for every token, or None where the file has none."""
    values = metadata.get(KEY + name)
    if values is None:
        return None
    if not isinstance(values, list) or len(values) < n_tokens:
        got = f"{len(values)} items" if isinstance(values, list) else type(values).__name__
        raise TokenizerError(f"{KEY}{name} must be an array of {n_tokens} numbers, got {got}")
    # NaN has no place in an order, and infinity is no type.
    if not set(map(type, values)) <= {int, float, bool} or not all(map(math.isfinite, values)):
        raise TokenizerError(f"{KEY}{name} must hold finite numbers only")
    return values[:n_tokens]


def _group(types: Sequence[int]) -> dict[int, list[int]]:
    """Token ids by type, without the normal ones, which are most of the vocabulary."""
    groups: dict[int, list[int]] = {}
    for i, kind in enumerate(types):
        if kind != _NORMAL:
            groups.setdefault(int(kind), []).append(i)
    return groups


def _ids(tokens: Sequence[str]) -> dict[str, int]:
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
        first = tokens.index(twice)
        raise TokenizerError(f"token {twice!r} is in the vocabulary twice: {first}, {ids[twice]}")
    return ids


def _byte_level_backend(
    metadata: Mapping[str, Any], tokens: list[str], rule: PreRule
) -> NativeTokenizer:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    model = call_native(
        "tokenizer.ggml.merges does not fit its tokens",
        models.BPE,
        _ids(tokens),
        merges(metadata),
        ignore_merges=rule.ignore_merges,
    )
    backend = Tokenizer(model)
    split: list[Any] = [
        pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns
    ]
    split.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    return NativeTokenizer(backend)


def _sentencepiece_backend(
    metadata: Mapping[str, Any], tokens: list[str], types: Sequence[int]
) -> NativeTokenizer:
    from tokenizers import Tokenizer, models, normalizers

    scores = _array(metadata, "scores", len(tokens))
    if scores is None:
        raise TokenizerError("tokenizer.ggml.scores is missing: SentencePiece merges by score")
    ids = _ids(tokens)
    unknown = special_id(metadata, "unknown_token_id", len(tokens), 0)
    model = call_native(
        "tokenizer.ggml.tokens cannot be used",
        models.BPE,
        ids,
        list(merges_of_scores(tokens, scores, types)),
        unk_token=tokens[unknown or 0],
        fuse_unk=True,
        byte_fallback=all(f"<0x{byte:02X}>" in ids for byte in range(256)),
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", SPACE)
    return NativeTokenizer(backend)


def merges_of_scores(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]
) -> Iterator[tuple[str, str]]:
    """Each token by falling score, and for each token every pair that it splits into.

    SentencePiece joins the two neighbours whose union is the token of the highest score; BPE joins
    those whose merge comes first, so this order of merges makes BPE equal.  Control, byte, unknown
    and unused tokens take no part.  If two tokens have the same score, SentencePiece takes the
    leftmost place in the text, and this order the lower id.
    """
    joinable = {
        token
        for token, kind in zip(tokens, types, strict=True)
        if kind not in (_CONTROL, _BYTE, _UNKNOWN, _UNUSED)
    }
    n_pairs = 0
    if sum(len(token) ** 2 for token in joinable) > _MAX_SQUARES:
        raise TokenizerError("the tokens are too long to find the pairs that they split into")
    for _, token in sorted(zip(scores, tokens, strict=True), key=itemgetter(0), reverse=True):
        if token not in joinable:
            continue
        if len(token) > _MAX_PIECE_CHARS:
            raise TokenizerError(f"a token of {len(token)} characters ({token[:20]!r}...)")
        for i in range(1, len(token)):
            left = token[:i]
            if left in joinable and (right := token[i:]) in joinable:
                n_pairs += 1
                yield left, right
        if n_pairs > _MAX_PAIRS_PER_TOKEN * (len(tokens) + _MAX_PIECE_CHARS):
            raise TokenizerError(
                f"more than {_MAX_PAIRS_PER_TOKEN} pairs for each of {len(tokens)} tokens"
            )


def _add_tokens(
    backend: NativeTokenizer,
    metadata: Mapping[str, Any],
    tokens: Sequence[str],
    ids_of_type: Mapping[int, Sequence[int]],
) -> None:
    """Registers control, unknown and user-defined tokens, which are found before text is split."""
    from tokenizers import AddedToken

    # Phi-3's special tokens absorb the white space after them; its GGUF files do not say so.
    name = str(metadata.get("general.name", "")).lower()
    greedy = "phi-3" in name or "phi3" in name

    # SentencePiece finds user-defined tokens in the normalized text, in which a space is a "▁".
    pieces = metadata[KEY + "model"] == "llama"

    def added(i: int, special: bool) -> AddedToken:
        rstrip = greedy and tokens[i] not in ("<unk>", "<s>", "<|endoftext|>")
        normalized = pieces and not special
        return AddedToken(tokens[i], normalized=normalized, special=special, rstrip=rstrip)

    control = sorted([*ids_of_type.get(_CONTROL, ()), *ids_of_type.get(_UNKNOWN, ())])
    others = ids_of_type.get(_USER_DEFINED, ())
    check_added_tokens(tokens[i] for i in (*control, *others))
    special = [added(i, True) for i in control]
    backend.add_tokens(special, special=True)
    if pieces and _adds_space_prefix(metadata):
        backend.prefix = DummyPrefix(SPACE, {token.content: token for token in special})
    backend.add_tokens([added(i, False) for i in others], special=False)
