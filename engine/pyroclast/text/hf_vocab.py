"""A Hugging Face folder's tokenizer.json and the files beside it -> a `Vocabulary`.

tokenizer.json says how text becomes ids, and is used unchanged; its decoder shows which of the two
spellings of bytes the tokens have.  tokenizer_config.json, special_tokens_map.json, config.json and
generation_config.json name the special tokens, chat_template.jinja the template.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyroclast.errors import TokenizerError
from pyroclast.files.small_file import (
    CONFIG_BYTES,
    TEMPLATE_BYTES,
    TOKENIZER_BYTES,
    read_small_json,
    read_small_text,
)
from pyroclast.text.allowed_steps import check_charsmaps, check_steps
from pyroclast.text.declared_tokens import named_tokens, register
from pyroclast.text.decoding import decoding_of
from pyroclast.text.encoding_process import EncodingProcess
from pyroclast.text.native_tokenizer import NativeTokenizer, call_native
from pyroclast.text.vocab import Vocabulary, check_added_tokens, end_ids, padded_size


def vocabulary_from_folder(folder: Path) -> Vocabulary:
    """The vocabulary of a folder with a tokenizer.json; anything missing or odd: TokenizerError."""
    path = folder / "tokenizer.json"
    config = _read_json(folder / "tokenizer_config.json")
    declared = _read_json(folder / "special_tokens_map.json") | config
    backend = _read_tokenizer(path, declared)
    names = named_tokens(declared)
    bos, eos = (
        backend.token_to_id(names[key]) if key in names else None
        for key in ("bos_token", "eos_token")
    )
    prefix, suffix = _surroundings(backend, config, bos, eos)
    added = backend.added_tokens()
    check_added_tokens(token.content for token in added.values())
    size = max(backend.vocab_size(), max(added, default=-1) + 1)
    ends = end_ids((i, token.content, token.special) for i, token in added.items())
    ends |= _configured_ends(folder, size) | ({eos} if eos is not None else set())
    return Vocabulary(
        backend=backend,
        decoding=decoding_of(backend.state("decoder"), str(path)),
        size=max(size, _padded_size(folder)),
        token_text=backend.id_to_token,
        raw_ids=frozenset(added),
        special_ids=frozenset(i for i, token in added.items() if token.special),
        prefix_ids=prefix,
        suffix_ids=suffix,
        bos_token_id=bos,
        eos_token_ids=frozenset(ends),
        chat_templates=_templates(folder, config),
        lossy_bytes=frozenset(),
        named_tokens=names,
    )


def _read_tokenizer(path: Path, declared: Mapping[str, Any]) -> NativeTokenizer:
    """The tokenizer of a tokenizer.json; a file with a slow pattern gets a process of its own."""
    try:
        text = read_small_text(path, TOKENIZER_BYTES, TokenizerError)
    except FileNotFoundError as error:
        raise TokenizerError(
            f"{path} does not exist; a folder needs a tokenizer.json (other files, such as "
            "tokenizer.model, are not read; `transformers` can save one)"
        ) from error
    check_charsmaps(text, str(path))
    backend = NativeTokenizer.from_json(text, f"{path} cannot be read")
    slow = check_steps(backend, str(path))
    if register(backend, declared, can_encode=not slow) and slow:
        text = call_native(f"{path} cannot be written", backend.backend.to_str)
    if slow:
        backend.process = EncodingProcess(text, slow[0])
    return backend


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or {} if the file does not exist."""
    try:
        return read_small_json(path, CONFIG_BYTES, TokenizerError)
    except FileNotFoundError:
        return {}


def _surroundings(
    backend: NativeTokenizer, config: Mapping[str, Any], bos: int | None, eos: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What goes before and after a text: tokenizer.json's post-processor as seen on a probe, and
    then add_bos_token and add_eos_token of tokenizer_config.json, which overrule it."""
    bare, full = backend.encode("a"), backend.encode("a", add_special_tokens=True)
    starts = [i for i in range(len(full) + 1) if full[i : i + len(bare)] == bare]
    if not starts or (full and not bare):
        raise TokenizerError("tokenizer.json's post_processor drops the text's own tokens")
    start = starts[0]
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


def _padded_size(folder: Path) -> int:
    config = _read_json(folder / "config.json")
    text = config.get("text_config")
    sizes = [each.get("vocab_size") for each in (config, text) if isinstance(each, dict)]
    return max(map(padded_size, sizes))


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates by name: files of their own, else tokenizer_config.json's."""
    found = config.get("chat_template")
    if isinstance(found, list):
        entries = [each for each in found if isinstance(each, dict)]
        entries = [each for each in entries if isinstance(each.get("name"), str)]
        found = {each["name"]: each.get("template") for each in entries}
    named = found if isinstance(found, dict) else {"default": found}
    paths = {"default": folder / "chat_template.jinja"} | {
        path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))
    }
    for name, path in paths.items():
        with contextlib.suppress(FileNotFoundError):
            named[name] = read_small_text(path, TEMPLATE_BYTES, TokenizerError)
    return {
        name: template
        for name, template in named.items()
        if isinstance(name, str) and isinstance(template, str) and template
    }
