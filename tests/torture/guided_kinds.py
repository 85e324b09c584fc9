"""What atheris guides: the parsers that are written in Python."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.files.gguf import GGUFFile
from pyroclast.files.safetensors import SafetensorsFile
from pyroclast.text.answers.choose import PARSERS, parser_for
from pyroclast.text.answers.delta import Answer
from pyroclast.text.tokenizer import Tokenizer
from random_answers import demo_llm
from template_grammar import SMALL_VALUES, Templates
from torture import bases, http_server, mutate, templates, use
from torture.campaign import Kind
from torture.files import KEYS
from torture.gguf_image import mutated
from torture.guided import guided
from torture.tokenizer_parts import TOKENIZERS

_TOOLS = [{"type": "function", "function": {"name": name}} for name in ("weather", "clock")]


class _JSON:
    """Inputs that are JSON: `trees` are those to begin with."""

    def __init__(self, trees: list[Any]) -> None:
        self._trees, self._words = trees, mutate.words_of(*trees)

    def draw(self, dice: Random) -> bytes:
        return json.dumps(dice.choice(self._trees)).encode()

    def change(self, dice: Random, data: bytes) -> bytes:
        return mutate.json_bytes(dice, json.loads(data), self._words)


class GGUFMetadata:
    """Headers, metadata and tables of tensors of GGUF files."""

    def __init__(self) -> None:
        whole = bases.gguf_images(Path())
        self._images = [replace(bases.without_tokenizer(image), data=b"") for image in whole[:9]]
        self._path = Path("case.gguf")

    def draw(self, dice: Random) -> bytes:
        return dice.choice(self._images).to_bytes()

    def change(self, dice: Random, data: bytes) -> bytes:
        if dice.random() < 0.5:
            return mutate.raw(dice, data)
        return mutated(dice, dice.choice(self._images), KEYS)

    def check(self, payload: bytes) -> None:
        self._path.write_bytes(payload)
        file = GGUFFile(self._path, complete=False)
        try:
            for key in file.metadata:
                file.metadata[key]
        finally:
            file.close()
        open_checkpoint(self._path, complete=False).close()


class SafetensorsHeader(_JSON):
    """Headers of safetensors files, behind their true length or, for one in 16, 8 bytes given."""

    def __init__(self) -> None:
        data = (bases.write_folder(Path("folder")) / "model.safetensors").read_bytes()
        super().__init__([json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])])
        self._data, self._path = bytes(1 << 16), Path("case.safetensors")

    def check(self, payload: bytes) -> None:
        head = b"" if use.every(payload, 16) else len(payload).to_bytes(8, "little")
        self._path.write_bytes(head + payload + self._data)
        SafetensorsFile(self._path).close()


class TokenizerJSON(_JSON):
    """tokenizer.json with every kind of step."""

    def __init__(self) -> None:
        self._folder = bases.write_folder(Path("folder"))
        base = json.loads((self._folder / "tokenizer.json").read_bytes())
        super().__init__([base | steps for steps in TOKENIZERS])

    def check(self, payload: bytes) -> None:
        (self._folder / "tokenizer.json").write_bytes(payload)
        use.use_tokenizer(Tokenizer.from_folder(self._folder))


class Template:
    """Templates of models, and those of a grammar."""

    def __init__(self) -> None:
        self._made = Templates(0, SMALL_VALUES)

    def draw(self, dice: Random) -> bytes:
        return (dice.choice(templates._REAL) if dice.random() < 0.3 else self._made.next()).encode()

    def change(self, dice: Random, data: bytes) -> bytes:
        words = re.findall(r"\w+|[^\w\s]+|\s+", data.decode()) or [""]
        at = dice.randrange(len(words))
        words[at : at + 1] = dice.choice([[], [dice.choice(templates._WORDS)], [words[at]] * 2])
        return "".join(words).encode()

    def check(self, payload: bytes) -> None:
        templates.render(payload.decode(errors="replace").encode())


class ModelAnswer:
    """Answers of models: a byte that chooses the parser, then the text; in any pieces the same."""

    _MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "{",
              "}", '"', "[", "]", ":", ",", "\\", "name", "arguments", "<function=", ">",
              "<parameter=", "</parameter>", "</function>", "<|channel|>", "<|message|>",
              "<|tool_call>", "<tool_call|>", "call:", "<|python_tag|>", "to=functions.a",
              "<|end|>", '{"name": "clock", "arguments": {"a": 1}}', "<start_function_call>",
              "<escape>", "<\uff5ctool▁calls▁begin\uff5c>", "<\uff5ctool▁call▁begin\uff5c>",
              "<\uff5ctool▁sep\uff5c>", "<|tool_call|>")  # fmt: skip

    def draw(self, dice: Random) -> bytes:
        text = "".join(dice.choices(self._MARKS, k=dice.randint(1, 12)))
        return bytes([dice.randrange(len(PARSERS))]) + text.encode()

    def change(self, dice: Random, data: bytes) -> bytes:
        at = dice.randrange(1, len(data) + 1)
        end = at + dice.choice([0, 0, 1, 9])
        return data[:at] + dice.choice(self._MARKS).encode() + data[end:]

    def check(self, payload: bytes) -> None:
        name = sorted(PARSERS)[payload[0] % len(PARSERS)] if payload else "plain"
        text = payload[1:].decode(errors="replace")
        assert self._read(name, text, len(text)) == self._read(name, text, 1), "pieces differ"

    @staticmethod
    def _read(name: str, text: str, size: int) -> Any:
        parser, answer = parser_for(name, tools=_TOOLS), Answer()
        for at in range(0, len(text), max(size, 1)):
            answer.add(parser.feed(text[at : at + size]))
        answer.add(parser.finish())
        calls = [(call.name, call.arguments) for call in answer.tool_calls]
        assert all(c < "\ud800" or c > "\udfff" for call in calls for part in call for c in part)
        return answer.reasoning, answer.content, calls


class RequestBody:
    """Bodies of requests to the application: a byte that chooses the path, then the body."""

    def __init__(self) -> None:
        import httpx

        from pyroclast import AsyncLLM
        from pyroclast.server.app import create_app

        self._loop = asyncio.new_event_loop()
        app: Any = create_app({"m": AsyncLLM.of(demo_llm())})
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://torture")

    def draw(self, dice: Random) -> bytes:
        return bytes([dice.randrange(4)]) + http_server._body(dice)

    def change(self, dice: Random, data: bytes) -> bytes:
        tree = json.loads(data[1:])
        words = [*mutate.words_of(tree), *http_server._FIELDS, "auto", "required", "tool_calls"]
        return data[:1] + mutate.json_bytes(dice, tree, words)

    def check(self, payload: bytes) -> None:
        path = http_server._PATHS[payload[0] % 4] if payload else "/v1/completions"
        answer = self._loop.run_until_complete(self._client.post(path, content=payload[1:]))
        assert answer.status_code < 500 or answer.status_code == 503, answer.text[:500]


_TEXT, _SERVER = "pyroclast.text", "pyroclast.server"
_SANDBOX = ("chat", "template_filters", "template_sandbox", "template_syntax")
_TOKENIZER = ("allowed_steps", "declared_tokens", "hf_vocab", "patterns", "vocab",
              "native_tokenizer")  # fmt: skip
_ANSWERS = ("call_json", "deepseek", "gemma", "harmony", "llama3", "mistral", "parser",
            "qwen_xml", "tagged")  # fmt: skip
_BODIES = ("anthropic_blocks", "anthropic_in", "fields", "messages_in", "response_items",
           "responses_in", "tools_in", "tool_grammar", "chat", "completions",
           "service")  # fmt: skip


def guided_kinds() -> list[Kind]:
    """Every kind, whether or not atheris is here."""
    return [
        guided("guided-gguf", GGUFMetadata, (
            "pyroclast.files.gguf", "pyroclast.files.gguf_metadata", "pyroclast.files.model_file",
            "pyroclast.families.read_gguf", "pyroclast.families.hyperparameters",
        )),
        guided("guided-safetensors", SafetensorsHeader, ("pyroclast.files.safetensors",)),
        guided("guided-tokenizer", TokenizerJSON, [f"{_TEXT}.{name}" for name in _TOKENIZER]),
        guided("guided-template", Template, [
            *(f"{_TEXT}.{name}" for name in _SANDBOX), "jinja2.parser",
        ]),
        guided("guided-answer", ModelAnswer, [f"{_TEXT}.answers.{name}" for name in _ANSWERS]),
        guided("guided-body", RequestBody, [
            *(f"{_SERVER}.{name}" for name in _BODIES), "pyroclast.sampling.structured",
            "pyroclast.sampling.schema", "pyroclast.sampling.params",
        ], memory_bytes=None),
    ]  # fmt: skip
