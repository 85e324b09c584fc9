"""Models with random weights in real shapes: "dummy:<shape>@<format>" needs no download.

For benchmarks of any size: weights are made tensor by tensor when asked for, scaled so that
activations and logits stay finite, and the same every time.  Their text means nothing.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pyroclast.checkpoint.tensor import Scratch, Tensor
from pyroclast.errors import ModelFileError
from pyroclast.families.config import ModelConfig
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.rope import RopeScaling
from pyroclast.families.tensors import tensor_shapes
from pyroclast_kernels.weights import formats

if TYPE_CHECKING:
    from pyroclast.text.tokenizer import Tokenizer

PREFIX = "dummy:"
DEFAULT_FORMAT = "q8_0"

_LLAMA3_SCALING = RopeScaling(
    kind="llama3",
    factor=32.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_seq_len=8192,
)

SHAPES: dict[str, Hyperparameters] = {
    "smollm2-135m": Hyperparameters(
        family="llama",
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        head_dim=64,
        d_model=576,
        d_ff=1536,
        vocab_size=49152,
        max_seq_len=8192,
        rope_theta=100_000.0,
        norm_eps=1e-5,
        tie_embeddings=True,
    ),
    "qwen2.5-0.5b": Hyperparameters(
        family="qwen2",
        n_layers=24,
        n_heads=14,
        n_kv_heads=2,
        head_dim=64,
        d_model=896,
        d_ff=4864,
        vocab_size=151_936,
        max_seq_len=32768,
        rope_theta=1_000_000.0,
        norm_eps=1e-6,
        tie_embeddings=True,
        qkv_bias=True,
    ),
    "llama-3.2-1b": Hyperparameters(
        family="llama",
        n_layers=16,
        n_heads=32,
        n_kv_heads=8,
        head_dim=64,
        d_model=2048,
        d_ff=8192,
        vocab_size=128_256,
        max_seq_len=131_072,
        rope_theta=500_000.0,
        norm_eps=1e-5,
        tie_embeddings=True,
        rope_scaling=_LLAMA3_SCALING,
    ),
    "llama-3.1-8b": Hyperparameters(
        family="llama",
        n_layers=32,
        n_heads=32,
        n_kv_heads=8,
        head_dim=128,
        d_model=4096,
        d_ff=14336,
        vocab_size=128_256,
        max_seq_len=131_072,
        rope_theta=500_000.0,
        norm_eps=1e-5,
        tie_embeddings=False,
        rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
    ),
}

# Blocks in a pattern, primes: a tensor repeats the pattern, and since no row is a multiple of it
# long, rows only repeat after that many of them, more than any vocabulary here has.
_PATTERN_BLOCKS = 196_613
_PATTERN_VALUES = 1_048_583


def parse(model: str) -> tuple[str, str]:
    """The shape's and the format's name in "dummy:<shape>@<format>"."""
    shape_name, _, format_name = model.removeprefix(PREFIX).partition("@")
    format_name = format_name or DEFAULT_FORMAT
    if shape_name not in SHAPES:
        raise ModelFileError(
            f"unknown shape {shape_name!r} in {model!r}; known: {', '.join(SHAPES)}"
        )
    if format_name not in formats.quantizable_formats():
        raise ModelFileError(
            f"unknown format {format_name!r} in {model!r}; supported: "
            + ", ".join(formats.quantizable_formats())
        )
    return shape_name, format_name


def dummy_tensors(config: ModelConfig, format_name: str, seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of such a model by canonical name: matrices in format_name, vectors in f32."""
    tensors: dict[str, Tensor] = {}
    for name, shape in tensor_shapes(config).items():
        tensor_seed = zlib.crc32(name.encode(), seed)
        if len(shape) == 1:
            source: RandomVector | RandomRows = RandomVector(
                shape[0], tensor_seed, mean=1.0 if "norm" in name else 0.0
            )
            tensors[name] = Tensor(name, name, "f32", shape, source)
        else:
            source = RandomRows(shape[0], shape[1], format_name, tensor_seed)
            tensors[name] = Tensor(name, name, format_name, shape, source)
    return tensors


@dataclass(frozen=True)
class RandomVector:
    """size values in f32, normal around `mean` with a deviation of 0.1, fixed by the seed."""

    size: int
    seed: int
    mean: float
    at_once = True

    def rows(self, first: int, last: int, scratch: Scratch) -> npt.NDArray[np.uint8]:
        """The values' bytes, (1, 4 * size)."""
        del scratch
        noise = np.random.default_rng(self.seed).standard_normal(self.size)
        values = (self.mean + 0.1 * noise).astype("<f4")
        return values.view(np.uint8).reshape(1, -1)[first:last]


@dataclass(frozen=True)
class RandomRows:
    """A matrix of random blocks, its values' deviation 0.8 / sqrt(n_cols), fixed by the seed."""

    n_rows: int
    n_cols: int
    format_name: str
    seed: int
    at_once = False

    def rows(self, first: int, last: int, scratch: Scratch) -> npt.NDArray[np.uint8]:
        """The blocks, made again at each call: uint8 (last - first, row_bytes)."""
        del scratch
        pattern = _pattern(self.format_name, self.n_cols)
        row_bytes = formats.row_bytes(self.n_cols, self.format_name)
        out = np.empty((last - first) * row_bytes, dtype=np.uint8)
        block_bytes = formats.FORMATS[self.format_name].block_bytes
        start = self.seed % (len(pattern) // block_bytes) * block_bytes
        start = (start + first * row_bytes) % len(pattern)
        position = 0
        while position < len(out):
            part = pattern[start : start + len(out) - position]
            out[position : position + len(part)] = part
            position += len(part)
            start = 0
        return out.reshape(-1, row_bytes)


@lru_cache(maxsize=4)
def _pattern(format_name: str, n_cols: int) -> npt.NDArray[np.uint8]:
    """The bytes that every matrix of this format and width repeats, at most 7 MB."""
    rng = np.random.default_rng(n_cols)
    layout = formats.FORMATS[format_name]
    deviation = 0.8 / math.sqrt(n_cols)
    if layout.block_columns == 1:
        values = rng.random((1, _PATTERN_VALUES), dtype=np.float32)
        values = (values - np.float32(0.5)) * np.float32(deviation * math.sqrt(12))
        return formats.quantize(values, format_name).reshape(-1)
    raw = rng.integers(0, 256, _PATTERN_BLOCKS * layout.block_bytes, dtype=np.uint8)
    blocks = raw.view(layout.dtype)
    codes = blocks["qs"]
    # A mean of zero matters: a shared offset would add up over the columns and drown the rest.
    if format_name == "q4_1":
        blocks["d"] = step = deviation / math.sqrt((16**2 - 1) / 12)
        blocks["m"] = -7.5 * step
        return raw
    if format_name == "q8_0":
        highest = 127
        codes[codes == -128] = 0  # ggml never writes -128, and kernels may rely on that
    else:
        highest = 7
        codes[codes & 0x0F == 0] |= 0x08  # nibble 0 stands for -8, nibble 8 for 0
        codes[codes & 0xF0 == 0] |= 0x80
    # The variance of -highest..highest, zero counted twice.
    blocks["d"] = deviation / math.sqrt(highest * (2 * highest + 1) / 6)
    return raw


def dummy_tokenizer(config: ModelConfig) -> Tokenizer:
    """A tokenizer for a dummy: ids 0 to 255 are bytes, every other id i reads <|id_i|>; there is
    no token that begins or ends a text, so that generation runs as long as it is asked to.
    """
    from pyroclast.text.tokenizer import Tokenizer
    from pyroclast.text.vocab import byte_level_alphabet

    letter_of_byte = {byte: letter for letter, byte in byte_level_alphabet().items()}
    tokens = [letter_of_byte[byte] for byte in range(256)]
    tokens += [f"<|id_{i}|>" for i in range(256, config.vocab_size)]
    return Tokenizer.from_gguf_metadata(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": [],
        }
    )
