"""The answers of the first views as JSON: what the server sends, and an exported page holds."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import pyroclast
from pyroclast.lens.about import facts
from pyroclast.lens.choice import Next
from pyroclast.lens.draw import Redrawn, Traced
from pyroclast.lens.text import Piece, Tokens, text_of
from pyroclast_kernels.sample.reference import falling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyroclast.llm import LLM
    from pyroclast.text.tokenizer import Tokenizer

_N_PIECES = 1000  # of an exported page: the tokens whose names it can show


def meta_json(llm: LLM, name: str, models: Sequence[str], runs: Sequence[str]) -> dict[str, Any]:
    """The answer to meta: a model, those beside it, and the training runs, by their names."""
    found = {"models": list(models), "model": name, "version": pyroclast.__version__}
    return found | {"training": list(runs)} | facts(llm)


def tokens_json(found: Tokens) -> dict[str, Any]:
    """The answer to tokens."""
    pieces = [piece_json(each) for each in found.pieces]
    return {"token_ids": list(found.token_ids), "pieces": pieces}


def piece_json(piece: Piece) -> dict[str, Any]:
    """A piece, its bytes as numbers."""
    return asdict(piece) | {"bytes": list(piece.bytes)}


def next_json(found: Next) -> dict[str, Any]:
    """The answer to next."""
    return {
        "token_ids": list(found.token_ids),
        "logits_b64": as_base64(found.logits),
        "log_z": found.log_z,
        "entropy": found.entropy,
        "n_equal_sides": found.n_equal_sides,
        "top": [asdict(each) for each in found.top],
    }


def likely_pieces_json(tokenizer: Tokenizer, found: Next) -> dict[str, Any]:
    """The answer to pieces for the tokens that a page may show: the most likely ones."""
    ids = falling(found.logits)[:_N_PIECES].tolist()
    return {"pieces": [{"id": i, "text": text_of(tokenizer, i)} for i in ids]}


def trace_json(found: Traced) -> dict[str, Any]:
    """The answer to trace."""
    return asdict(found)


def redraw_json(found: Redrawn) -> dict[str, Any]:
    """The answer to redraw."""
    counts = [{"id": i, "text": text, "n": n} for i, text, n in found.counts]
    return {"counts": counts, "seed": found.seed, "position": found.position}


def as_base64(values: NDArray[Any]) -> str:
    """The bytes of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()
