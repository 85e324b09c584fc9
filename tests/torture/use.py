"""What a case does with a file that somebody made: all that Pyroclast does with one."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from typing import Any

from pyroclast import LLM, SamplingParams
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import open_checkpoint, open_tokenizer
from pyroclast.errors import PyroclastError
from pyroclast.text.tokenizer import Tokenizer

TEXT = "the cat<|eos|> é中\U0001f600 12345  in\n\nan</s>d"
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hi <|eos|>"},
]
_SMALL = SamplingParams(max_tokens=3, temperature=0)


def every(payload: bytes, n: int) -> bool:
    """True for one payload in n, whichever process asks."""
    return zlib.crc32(payload) % n == 0


def use_model(path: Path, payload: bytes, tokenizer_every: int = 16, load_every: int = 16) -> None:
    """Opens a model, reads its weights, and for some payloads makes its tokenizer and runs it."""
    warnings.simplefilter("ignore")
    if every(payload, 17):
        _allowed(open_checkpoint, path, complete=False)
        _allowed(open_tokenizer, path)
    with open_checkpoint(path) as checkpoint:
        checkpoint.conversion_line()
        for tensor in checkpoint.tensors.values():
            tensor.float32()
        if every(payload, tokenizer_every):
            use_tokenizer(checkpoint.tokenizer())
    if every(payload, load_every):
        run_model(path)


def _allowed(function: Any, *args: Any, **kwargs: Any) -> None:
    """Calls it; that it refuses is no reason to end the case."""
    try:
        result = function(*args, **kwargs)
    except PyroclastError:
        return
    if hasattr(result, "close"):
        result.close()


def run_model(path: Path) -> None:
    """Loads a model as small as it goes, and generates."""
    small = {"n_blocks": 2, "max_seqs": 1, "max_batch_tokens": 16}
    with LLM(str(path), device="cpu", threads=1, **small) as llm:
        llm.generate([[1, 2, 3]], _SMALL)


def use_tokenizer(tokenizer: Tokenizer) -> None:
    """Encodes, decodes, renders."""
    ids = tokenizer.encode(TEXT)
    tokenizer.encode(TEXT, add_special_tokens=False, parse_special=False)
    tokenizer.decode(ids)
    tokenizer.decode_bytes(ids, skip_special_tokens=False)
    stream = tokenizer.decoder()
    for token_id in ids:
        stream.step(token_id)
    stream.flush()
    if tokenizer.chat_template is not None:
        tokenizer.encode_chat(MESSAGES)


def use_converter(path: Path, target: Path, payload: bytes) -> None:
    """Converts a model to one format or another."""
    formats = ("q4_0", "f16", "q8_0", "q4_k_m", "bf16", "f32", "q6_k")
    convert(str(path), str(target), formats[zlib.crc32(payload) % len(formats)], threads=1)
    with open_checkpoint(target) as checkpoint:
        assert checkpoint.tensors
