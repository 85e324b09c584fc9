"""Text to token ids and back: `Tokenizer`, for every file format of a vocabulary.

`tokenizers` encodes.  Decoding is done here, on bytes, so that a stream of tokens and one call of
`decode` give the same text, and a character whose bytes are split over two tokens is never cut.
Bytes that are not UTF-8 become U+FFFD.
"""

from __future__ import annotations

import codecs
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.errors import TokenizerError
from pyroclast.text.decoding import DecodingStream
from pyroclast.text.vocab import Vocabulary, byte_level_alphabet

if TYPE_CHECKING:
    from pyroclast.text.chat import ChatTemplate
    from pyroclast.text.written_encoder import WrittenEncoder


class Tokenizer:
    """One model's vocabulary, rules for splitting text, special tokens and chat template.

    Make one with `from_gguf`, `from_gguf_metadata` or `from_folder`.  Safe to use from several
    threads.  `bos_token_id` is None where the model has none; `named_tokens` are what a template
    knows by name, such as "eos_token"; `eos_token_ids` are all the tokens that end an answer (end
    of text, end of turn); `chat_template` is the Jinja source or None.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._backend = vocabulary.backend
        self._encoder: WrittenEncoder | None = None
        self._lock = threading.Lock()
        self._warned = False
        self._bytes: dict[int, bytes] = {}
        # Of tokens that are whole characters: those that are not skipped, and all of them.
        self._texts: tuple[dict[int, str], dict[int, str]] = ({}, {})
        self._alphabet = byte_level_alphabet()
        self._chats: dict[str, ChatTemplate] = {}
        self.vocab_size: int = vocabulary.size
        self.bos_token_id: int | None = vocabulary.bos_token_id
        self.named_tokens: Mapping[str, str] = vocabulary.named_tokens
        self.eos_token_ids: frozenset[int] = vocabulary.eos_token_ids
        self.chat_template: str | None = vocabulary.chat_templates.get("default")

    @property
    def uses_process(self) -> bool:
        """Whether a child process encodes, which may take seconds for any text."""
        return self._backend.process is not None

    @property
    def special_token_ids(self) -> frozenset[int]:
        """The control tokens: those that `decode` skips."""
        return frozenset(self._vocabulary.special_ids)

    @property
    def chat_templates(self) -> Mapping[str, str]:
        """The Jinja sources by name: "default", if there is one, and others such as "tool_use"."""
        return self._vocabulary.chat_templates

    @classmethod
    def from_gguf(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a GGUF file, which may hold only a vocabulary; the weights may be cut
        short."""
        from pyroclast.files.gguf import GGUFFile

        file = GGUFFile(str(path), weights=False)
        try:
            return cls.from_gguf_metadata(file.metadata)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error
        finally:
            file.close()

    @classmethod
    def from_gguf_metadata(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer that GGUF metadata (key -> Python value) describes."""
        from pyroclast.text.gguf_vocab import vocabulary_from_gguf

        return cls(vocabulary_from_gguf(metadata))

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a Hugging Face folder: tokenizer.json and the files beside it."""
        from pyroclast.text.hf_vocab import vocabulary_from_folder

        return cls(vocabulary_from_folder(Path(path)))

    def folder_files(self) -> dict[str, str]:
        """Name -> text of the files that hold this tokenizer in a Hugging Face folder."""
        from pyroclast.text.folder_files import folder_files

        return folder_files(self._vocabulary)

    def encode(
        self, text: str, add_special_tokens: bool = True, parse_special: bool = True
    ) -> list[int]:
        """text -> token ids.

        `add_special_tokens` adds the model's BOS (and EOS), if it uses any; a text that begins with
        BOS, such as a rendered chat, gets no second one.  With `parse_special`,
        a control token that is spelt out in the text, such as "<|im_end|>", becomes that token.
        Pass parse_special=False for untrusted text: its characters then stay ordinary ones.
        """
        if parse_special:
            ids = self._backend.encode(text)
            lossy = self._vocabulary.lossy_bytes
            if lossy and (lost := lossy.intersection(text.encode())):
                raise TokenizerError(f"this vocabulary has no token for the byte 0x{min(lost):02x}")
        else:
            ids = self._written_encoder().encode(text)
        if not add_special_tokens:
            return ids
        prefix = list(self._vocabulary.prefix_ids)
        if prefix and ids[: len(prefix)] == prefix:
            prefix = []
            self._say_once("the text begins with the model's BOS token, so no second one is added")
        return [*prefix, *ids, *self._vocabulary.suffix_ids]

    def _say_once(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(message, UserWarning, stacklevel=3)

    def decode(
        self, ids: Iterable[int], skip_special_tokens: bool = True, continuation: bool = False
    ) -> str:
        """Token ids -> text; an id outside the vocabulary is a TokenizerError.

        A SentencePiece vocabulary puts a space before the first word, and decoding removes it.
        With `continuation` the ids continue earlier text, and the space is kept.
        """
        data = self._join(ids, skip_special_tokens, continuation)
        return data.decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int], skip_special_tokens: bool = True) -> bytes:
        """The bytes that `decode` would turn into text."""
        return self._join(ids, skip_special_tokens, continuation=False)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for; a control token's are its name."""
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(
                f"token id {token_id} is outside the vocabulary, which has 0..{self.vocab_size - 1}"
            )
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._spell(token_id)
        return known

    def decoder(self, skip_special_tokens: bool = True, continuation: bool = False) -> TextDecoder:
        """A decoder that takes one id at a time; its pieces joined are what `decode` returns."""
        return TextDecoder(self, skip_special_tokens, continuation)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """Messages -> the prompt as text.  `kwargs` go to the template (`tools`, ...).

        RequestError for messages that are none, and for roles that the template does not know."""
        template = self._chat_template(kwargs)
        template.check_roles(messages)
        return template.render(messages, add_generation_prompt, kwargs)

    def render_written(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> tuple[str, bytes]:
        """Messages -> the prompt as text, and a byte for each of its characters: 1 where the
        template wrote it, 0 where a message did."""
        template = self._chat_template(kwargs)
        template.check_roles(messages)
        return template.render_written(messages, add_generation_prompt, kwargs)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> list[int]:
        """Messages -> the prompt as ids, with one BOS, whether the template writes it or not.

        Control tokens count where the template writes them.  What a message or another argument
        says is plain text, so nobody can end a turn or open another by spelling a token out.
        """
        text, written = self.render_written(messages, add_generation_prompt, **kwargs)
        ids = self._written_encoder().encode(text, written)
        prefix = list(self._vocabulary.prefix_ids)
        return ids if ids[: len(prefix)] == prefix else prefix + ids

    def _chat_template(self, arguments: Mapping[str, Any]) -> ChatTemplate:
        """The chat template; the one named "tool_use" if there is one, and tools are given."""
        named = self._vocabulary.chat_templates
        tools = arguments.get("tools") is not None
        name = "tool_use" if tools and "tool_use" in named else "default"
        if name not in self._chats:
            from pyroclast.text.chat import ChatTemplate

            self._chats[name] = ChatTemplate(
                named.get(name),
                control_tokens=self._written_encoder().control_names,
                **self._vocabulary.named_tokens,
            )
        return self._chats[name]

    def _written_encoder(self) -> WrittenEncoder:
        """The same vocabulary, which takes the names of control tokens for ordinary text."""
        with self._lock:
            if self._encoder is None:
                from pyroclast.text.written_encoder import WrittenEncoder

                self._encoder = WrittenEncoder(self._vocabulary)
            return self._encoder

    def _join(self, ids: Iterable[int], skip_special_tokens: bool, continuation: bool) -> bytes:
        skipped = self._vocabulary.special_ids if skip_special_tokens else frozenset()
        stream = DecodingStream(self._vocabulary.decoding, continuation)
        data = [
            stream.step(self.token_bytes(i), self.bare_bytes(i)) for i in ids if i not in skipped
        ]
        return b"".join([*data, stream.flush()])

    def bare_bytes(self, token_id: int) -> bytes:
        """The bytes of a token that is the first of a text, if that makes a difference."""
        bare = self._vocabulary.decoding.bare
        if not bare or token_id in self._vocabulary.raw_ids:
            return self.token_bytes(token_id)
        text = self._vocabulary.token_text(token_id) or ""
        return self._vocabulary.decoding.spelt(text.replace(bare, ""))

    def _spell(self, token_id: int) -> bytes:
        text = self._vocabulary.token_text(token_id) or ""
        if token_id in self._vocabulary.raw_ids:
            return text.encode()
        if not self._vocabulary.decoding.byte_level:
            return self._vocabulary.decoding.spelt(text)
        try:
            return bytes(map(self._alphabet.__getitem__, text))
        except KeyError:
            return text.encode()  # a whole word that was added without being marked as such


class TextDecoder:
    """Token ids one at a time -> text that is certain: no partial characters, nothing twice.

    The pieces that `step` and the last `flush` return, joined, are what `decode` returns.
    """

    __slots__ = ("_decoder", "_is_plain", "_skipped", "_stream", "_texts", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool, continuation: bool) -> None:
        vocabulary = tokenizer._vocabulary  # noqa: SLF001 - the decoder is the tokenizer's other half
        self._tokenizer = tokenizer
        self._skipped = vocabulary.special_ids if skip_special_tokens else frozenset()
        self._stream = DecodingStream(vocabulary.decoding, continuation)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # What tokens give while nothing is held back and nothing is left to strip: mostly so.
        self._texts = tokenizer._texts[not skip_special_tokens]  # noqa: SLF001
        self._is_plain = self._stream.is_plain

    def step(self, token_id: int) -> str:
        """The text that this token completes; "" while a character still lacks bytes."""
        if self._is_plain:
            text = self._texts.get(token_id)
            if text is not None:
                return text
        return self._decode(token_id)

    def _decode(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        data, bare = self._tokenizer.token_bytes(token_id), self._tokenizer.bare_bytes(token_id)
        text = self._decoder.decode(self._stream.step(data, bare))
        was_plain = self._is_plain
        self._is_plain = self._stream.is_plain and not self._decoder.getstate()[0]
        if was_plain and self._is_plain:
            self._texts[token_id] = text
        return text

    def flush(self) -> str:
        """The end of the text: U+FFFD for the bytes of an incomplete character, else ""."""
        return self._decoder.decode(self._stream.flush(), final=True)
