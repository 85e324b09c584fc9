"""The sizes of everything that is measured: for a GPU, or the smallest ones for the interpreter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pyroclast.checkpoint import dummy as shapes

FORMATS = {"BF16": "bf16", "int8": "q8_0", "4-bit": "q4_0"}
DEMO = "smollm2-135m-instruct"
_DEPTH, _GEN = 128, 96  # of a decode row that names no other
_LLAMA_8B, _VOCABULARY = [32, 8, 128], 128_256
# What a model may take in one step: a whole prompt of 8k tokens, 256 sequences.
_MAX_BATCH_TOKENS, _MAX_SEQS = 8192, 256


@dataclass(frozen=True)
class Sizes:
    """Every size that a task may need."""

    models: dict[str, str]
    demo: str
    formats: tuple[str, ...] = tuple(FORMATS)
    samplers: tuple[str, ...] = ("temperature", "top-k top-p", "top-p", "greedy")
    caches: tuple[str, ...] = ("f16", "bf16", "q8_0")  # the engine's own first
    tests: str = "tests/gpu"
    prompt: int = 8192
    batches: tuple[int, ...] = (4, 8, 16, 32, 128, 256)
    depths: tuple[int, ...] = (4096, 32768)
    depth: int = _DEPTH
    n_gen: int = _GEN
    most: int = 64  # sequences of the large batch, which has a target
    heads: tuple[int, ...] = tuple(_LLAMA_8B)
    cached: int = 32768
    vocabulary: int = _VOCABULARY
    small: str = "dummy:smollm2-135m"
    text: int = 48
    lengths: tuple[int, ...] = (24, 1, 70, 33, 5, 128, 17, 2)  # of texts that share a batch
    scored: int = 32
    repetitions: int = 3
    max_batch_tokens: int = _MAX_BATCH_TOKENS
    max_seqs: int = _MAX_SEQS
    pattern: str = ""
    suite_ops: tuple[str, ...] | None = None
    suite_cases: tuple[str, ...] | None = None


FULL = Sizes({"8B": "dummy:llama-3.1-8b", "1B": "dummy:llama-3.2-1b"}, DEMO)
SMALL = Sizes(
    {"8B": "dummy:tiny"},
    demo="",
    formats=("BF16",),
    samplers=("temperature",),
    caches=("f16",),
    tests="tests/gpu/test_lab.py::test_a_launch_is_checked_and_not_timed_in_the_interpreter",
    prompt=12,
    batches=(),
    depths=(20,),
    depth=4,
    n_gen=3,
    most=2,
    heads=(4, 2, 16),
    cached=70,
    vocabulary=300,
    small="dummy:tiny",
    text=3,
    lengths=(5, 1, 9),
    scored=4,
    repetitions=1,
    max_batch_tokens=32,
    max_seqs=2,
    pattern="q8_0-1x1x32",
    suite_ops=("glu",),
    suite_cases=("1x8192", "1x8192-q8"),  # enough to be asked more than once
)


def know_tiny_shape() -> None:
    """Makes "dummy:tiny@<format>" a model, small enough for Triton's interpreter."""
    sizes: dict[str, Any] = {"d_model": 32, "d_ff": 32, "vocab_size": 288, "max_seq_len": 512}
    heads: dict[str, Any] = {"n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "head_dim": 16}
    shapes.SHAPES["tiny"] = replace(shapes.SHAPES["smollm2-135m"], **heads, **sizes)
