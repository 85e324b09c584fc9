"""A Hugging Face folder's tokenizer.json and the files beside it -> a `Vocabulary`.

tokenizer.json says how text becomes ids, and is used unchanged; its decoder shows which of the two
spellings of bytes the tokens have.  tokenizer_config.json, special_tokens_map.json, config.json and
generation_config.json name the special tokens, chat_template.jinja the template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.errors import TokenizerError
from pyroclast.text.vocab import END_OF_TURN, SPACE, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


def vocabulary_from_folder(folder: Path) -> Vocabulary:
    """The vocabulary of a folder with a tokenizer.json; a TokenizerError says what is wrong."""
    path = folder / "tokenizer.json"
    backend = _read_backend(path)
    config = _read_json(folder / "tokenizer_config.json")
    names = _read_json(folder / "special_tokens_map.json") | config
    kind, strip_leading_space = _spelling(backend, path)
    bos, eos = (_named_id(backend, names, key) for key in ("bos_token", "eos_token"))
    prefix, suffix = _surroundings(backend, config, bos, eos)
    added = backend.get_added_tokens_decoder()
    size = max(backend.get_vocab_size(with_added_tokens=True), max(added, default=-1) + 1)
    ends = {i for i, token in added.items() if token.content in END_OF_TURN and token.special}
    ends |= _configured_ends(folder, size) | ({eos} if eos is not None else set())
    return Vocabulary(
        backend=backend,
        kind=kind,
        size=size,
        token_text=backend.id_to_token,
        raw_ids=frozenset(added),
        special_ids=frozenset(i for i, token in added.items() if token.special),
        prefix_ids=prefix,
        suffix_ids=suffix,
        strip_leading_space=strip_leading_space,
        bos_token_id=bos,
        eos_token_id=eos,
        eos_token_ids=frozenset(ends),
        chat_template=_template(folder, config),
        lossy_bytes=frozenset(),
    )


def _read_backend(path: Path) -> Backend:
    """The tokenizer in a tokenizer.json, without the truncation and padding of training."""
    from tokenizers import Tokenizer as BackendType

    if not path.is_file():
        raise TokenizerError(
            f"{path} does not exist; a folder needs a tokenizer.json (other files, such as "
            "tokenizer.model, are not read; `transformers` can save one)"
        )
    try:
        backend = BackendType.from_file(str(path))
    except Exception as error:  # `tokenizers` raises nothing more precise
        raise TokenizerError(f"{path} cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or {} if the file does not exist."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def _spelling(backend: Backend, path: Path) -> tuple[str, bool]:
    """(kind, whether decoding drops a leading space), from the decoder in tokenizer.json."""
    state = None if backend.decoder is None else json.loads(backend.decoder.__getstate__())
    steps = state.get("decoders", [state]) if isinstance(state, dict) else []
    by_type = {step["type"]: step for step in steps}
    if "ByteLevel" in by_type:
        return "byte-level", False
    if metaspace := by_type.get("Metaspace"):
        return "sentencepiece", metaspace.get("prepend_scheme", "always") != "never"
    if "ByteFallback" in by_type or by_type.get("Replace", {}).get("content") == " ":
        strip = by_type.get("Strip", {})
        return "sentencepiece", strip.get("content") == " " and strip.get("start", 0) > 0
    raise TokenizerError(
        f"{path}: decoder {list(by_type) or None} is not supported; supported: ByteLevel, and "
        f"SentencePiece's (Metaspace, or Replace {SPACE!r} with ByteFallback)"
    )


def _named_id(backend: Backend, names: Mapping[str, Any], key: str) -> int | None:
    token = names.get(key)
    content = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(content) if isinstance(content, str) else None


def _surroundings(
    backend: Backend, config: Mapping[str, Any], bos: int | None, eos: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens before and after a text: those that tokenizer.json's post-processor adds to a
    probe, overruled by add_bos_token and add_eos_token of tokenizer_config.json."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a").ids
    start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    prefix, suffix = full[:start], full[start + len(bare) :]
    for key, token_id, around in (("add_bos_token", bos, prefix), ("add_eos_token", eos, suffix)):
        wanted = config.get(key)
        if wanted is True and token_id is None:
            raise TokenizerError(f"tokenizer_config.json sets {key}, but names no such token")
        if isinstance(wanted, bool) and wanted != (token_id in around):
            around[:] = [token_id] if wanted and token_id is not None else []
    return tuple(prefix), tuple(suffix)


def _configured_ends(folder: Path, size: int) -> set[int]:
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = _read_json(folder / name).get("eos_token_id")
        for token_id in value if isinstance(value, list) else [value]:
            if token_id is None:
                continue
            if not isinstance(token_id, int) or not 0 <= token_id < size:
                raise TokenizerError(
                    f"{folder / name}: eos_token_id {token_id!r} is outside the vocabulary, "
                    f"which has 0..{size - 1}"
                )
            ends.add(token_id)
    return ends


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The chat template: its own file, else tokenizer_config.json's (the one named "default")."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise TokenizerError(f"{path} cannot be read: {error}") from error
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
