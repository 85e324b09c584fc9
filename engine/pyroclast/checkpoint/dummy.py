"""Models with random weights in real shapes: "dummy:<shape>@<format>" needs no download.

"dummy:<shape>:<layers>@<format>" has fewer layers.  The format may be one of the mixes of
`convert`, or "mxfp4_moe": experts in mxfp4, all else in q8_0.

For benchmarks of any size: weights are made tensor by tensor when asked for, scaled so that
activations and logits stay finite, and the same every time.  Their text means nothing.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pyroclast.checkpoint.convert.mixes import Place, format_of, targets
from pyroclast.checkpoint.dummy_shapes import PREFIX, SHAPES
from pyroclast.checkpoint.tensor import Scratch, Tensor
from pyroclast.errors import ModelFileError
from pyroclast.families.config import ModelConfig
from pyroclast.families.draft_head import has_draft_heads
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.registry import FAMILIES
from pyroclast.families.tensors import is_matrix, template_of, tensor_shapes
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.codebooks import E2M1_DOUBLED
from pyroclast_kernels.weights.encode import ENCODERS, encode

if TYPE_CHECKING:
    from pyroclast.text.tokenizer import Tokenizer

__all__ = ["PREFIX", "SHAPES", "dummy_tensors", "dummy_tokenizer", "hyperparameters_of", "parse"]

DEFAULT_FORMAT = "q8_0"

# Blocks in a pattern, primes: a tensor repeats the pattern, and since no row is a multiple of it
# long, rows only repeat after that many of them, more than any vocabulary here has.
_PATTERN_BLOCKS = 196_613
_PATTERN_VALUES = 1_048_583
_ENCODED_BLOCKS = 16_381  # of formats whose encoder searches
_EXPERTS_IN_MXFP4 = "mxfp4_moe"


def parse(model: str) -> tuple[str, str]:
    """The shape's name, with its number of layers if there is one, and the format's name in
    "dummy:<shape>:<layers>@<format>"."""
    shape_name, _, format_name = model.removeprefix(PREFIX).partition("@")
    format_name = format_name or DEFAULT_FORMAT
    hyperparameters_of(shape_name)
    if format_name not in _formats():
        raise ModelFileError(
            f"unknown format {format_name!r} in {model!r}; supported: {', '.join(_formats())}"
        )
    return shape_name, format_name


def hyperparameters_of(shape_name: str, *, draft_head: bool = False) -> Hyperparameters:
    """Of a shape, all of its layers or the first ones: "qwen3-30b-a3b:8".  draft_head: with a head
    that predicts further tokens, where its family has such heads."""
    name, _, n_layers = shape_name.partition(":")
    if name not in SHAPES:
        raise ModelFileError(
            f"unknown shape {name!r} in 'dummy:{shape_name}'; known: {', '.join(SHAPES)}"
        )
    found = SHAPES[name]
    if draft_head and has_draft_heads(FAMILIES[found.family]):
        found = replace(found, extra={**found.extra, "draft_head": True})
    if not n_layers:
        return found
    if n_layers not in map(str, range(1, found.n_layers + 1)):
        raise ModelFileError(
            f"the layers of 'dummy:{shape_name:.100}' must be a number in 1..{found.n_layers}, got "
            f"{n_layers!r:.100}"
        )
    return replace(found, n_layers=int(n_layers))


def _formats() -> list[str]:
    return [*targets(), _EXPERTS_IN_MXFP4]


def dummy_tensors(config: ModelConfig, format_name: str, seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of such a model by canonical name: matrices in format_name, or as a mix says;
    vectors and routers in f32."""
    tensors: dict[str, Tensor] = {}
    for name, shape in tensor_shapes(config).items():
        tensor_seed = zlib.crc32(name.encode(), seed)
        if not is_matrix(name):
            mean = 1.0 if "norm" in name else 0.0
            source: RandomVector | RandomRows = RandomVector(shape, tensor_seed, mean)
            tensors[name] = Tensor(name, name, "f32", shape, source)
        else:
            format = _format_of(config, name, shape[-1], format_name)
            source = RandomRows(math.prod(shape[:-1]), shape[-1], format, tensor_seed)
            tensors[name] = Tensor(name, name, format, shape, source)
    return tensors


def _format_of(config: ModelConfig, name: str, n_cols: int, format_name: str) -> str:
    template, layer = template_of(name)
    if name.endswith("w_router"):
        return "f32"
    if format_name == _EXPERTS_IN_MXFP4:
        return "mxfp4" if name.endswith("_experts") else "q8_0"
    if format_name in formats.FORMATS and n_cols % formats.FORMATS[format_name].block_columns == 0:
        return format_name
    family = FAMILIES[config.family]
    file_name = family.gguf_tensors.get(template)
    if file_name is None:  # of a tensor that holds several
        weight = template.rpartition(".")[2]
        file_name = next(name for name, parts in family.gguf_fused.items() if weight in parts)
    file_name = file_name.format(i=layer)
    head = "token_embd" if config.tie_embeddings else "output"
    return format_of(format_name, Place(file_name, layer, config.n_layers, name == head), n_cols)


@dataclass(frozen=True)
class RandomVector:
    """A vector, or one for each expert, in f32, normal around `mean` with a deviation of 0.1, fixed
    by the seed."""

    shape: tuple[int, ...]
    seed: int
    mean: float
    at_once = True

    def rows(self, first: int, last: int, scratch: Scratch) -> npt.NDArray[np.uint8]:
        """The values' bytes, a row for each vector."""
        del scratch
        noise = np.random.default_rng(self.seed).standard_normal(self.shape)
        values = (self.mean + 0.1 * noise).astype("<f4")
        return values.view(np.uint8).reshape(-1, 4 * self.shape[-1])[first:last]


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
    if format_name in ENCODERS:
        values = rng.standard_normal((_ENCODED_BLOCKS, layout.block_columns), dtype=np.float32)
        return encode(values * np.float32(deviation), format_name).reshape(-1)
    raw = rng.integers(0, 256, _PATTERN_BLOCKS * layout.block_bytes, dtype=np.uint8)
    blocks = raw.view(layout.dtype)
    codes = blocks["qs"]
    # A mean of zero matters: a shared offset would add up over the columns and drown the rest.
    if format_name == "q4_1":
        blocks["d"] = step = deviation / math.sqrt((16**2 - 1) / 12)
        blocks["m"] = -7.5 * step
        return raw
    if format_name == "mxfp4":  # the deviation to the nearest power of two
        blocks["e"] = 128 + round(math.log2(deviation / np.std(E2M1_DOUBLED)))
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
