"""The op `sample`: the next token of every row of logits, under that row's own parameters.

    sample(logits, n_rows, rows, penalties, biases, allowed, out, top_ids, top_logprobs, scratch,
           vocab_size, logits_stride, max_top, scratch_stride)

    logits        float32 (max_rows, vocab_size), rows may lie apart; read, never written
    n_rows        int64 (1,): how many rows are sampled in this call; read at run time
    rows          ROW (max_rows,): the parameters of each row
    penalties     PENALTY (any,): flat; row r owns [penalty_start, penalty_start + n_penalties)
    biases        BIAS (any,): flat; row r owns [bias_start, bias_start + n_biases)
    allowed       uint32 (any,): flat bitmasks; bit t % 32 of word allowed_start + t // 32 is set
                  where row r may choose token t; allowed_start = -1 allows every token
    out           OUT (max_rows,): the results
    top_ids       int32 (max_rows, max_top), top_logprobs float32 (max_rows, max_top): the n_top
                  most likely tokens of each row, best first, where the row asks for them (-1
                  and -inf where it has fewer tokens with a finite logit than that)
    scratch       uint8 (max_parts, scratch_bytes(vocab_size)), 64-byte aligned: working memory of
                  a part; a call is split into at most max_parts parts
    vocab_size, logits_stride (floats between rows), max_top, scratch_stride (bytes): integers

A row's result depends on that row's logits and parameters alone: not on its place in the batch,
its neighbours, the number of parts or of threads.  `reference.py` defines every stage.
What it does not do: user callables, stop strings, and the sampling of several tokens at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FORMATS = ("f32",)

# One row's parameters.  Every field is 8 bytes; cpp/sample.cpp mirrors the struct as SampleRow.
ROW = np.dtype(
    [
        ("temperature", "<f8"),  # < MIN_TEMPERATURE: greedy
        ("top_p", "<f8"),  # 1: off
        ("min_p", "<f8"),  # 0: off
        ("typical_p", "<f8"),  # 1: off
        ("top_n_sigma", "<f8"),  # 0: off
        ("repetition_penalty", "<f8"),  # 1: off
        ("presence_penalty", "<f8"),  # 0: off
        ("frequency_penalty", "<f8"),  # 0: off
        ("top_k", "<i8"),  # 0: off
        ("seed", "<u8"),
        ("position", "<u8"),  # of the token to be chosen, in its sequence
        ("completion", "<u8"),  # which of the n completions of one request
        ("penalty_start", "<i8"),
        ("n_penalties", "<i8"),
        ("bias_start", "<i8"),
        ("n_biases", "<i8"),
        ("allowed_start", "<i8"),  # -1: every token is allowed
        ("n_top", "<i8"),  # how many of the most likely tokens to report
        ("target", "<i8"),  # >= 0: choose nothing, report on this token
        ("want_logprob", "<i8"),  # 1: fill logprob, rank and is_greedy
    ]
)
PENALTY = np.dtype([("token_id", "<i4"), ("n_prompt", "<i4"), ("n_output", "<i4")])
BIAS = np.dtype([("token_id", "<i4"), ("bias", "<f4")])
OUT = np.dtype(
    [
        ("token_id", "<i4"),  # -1 unless status is OK
        ("status", "<i4"),
        ("n_kept", "<i4"),  # tokens that could have been drawn; 1 if greedy, 0 with a target
        ("rank", "<i4"),  # 1 + number of tokens with a greater raw logit; 0 if not asked for
        ("is_greedy", "<i4"),  # 1: the first of the maximum raw logits; 0 if not asked for
        ("logprob", "<f4"),  # of the raw logits; NaN if not asked for
    ]
)

OK = 0
NOT_FINITE = 1  # a NaN or a +inf among the row's logits
NOTHING_ALLOWED = 2  # every token is masked or has a logit of -inf

MIN_TEMPERATURE = 1e-5  # below it a row is greedy, as in vLLM


def scratch_bytes(vocab_size: int) -> int:
    """Bytes of working memory for one part, as draw.h's Scratch lays it out."""
    padded = -(-vocab_size // 64) * 64 + 64
    floats = 8 * padded + padded // 64 // 16 * 16 + 16 + 2 * (4096 + 64) + 1024 + 64
    histogram = 8 * 1024 * 4
    blocks = 2 * 8 * (padded // 1024 + 1)
    return 4 * floats + histogram + blocks


def new_rows(n_rows: int) -> Array:
    """ROW (n_rows,) with every stage off: a plain draw at temperature 1, seed and position 0."""
    rows = np.zeros(n_rows, ROW)
    for name in ("temperature", "top_p", "typical_p", "repetition_penalty"):
        rows[name] = 1.0
    rows["allowed_start"] = -1
    rows["target"] = -1
    return rows


def pack_allowed(token_ids: Any, vocab_size: int) -> Array:
    """uint32 (ceil(vocab_size / 32),): the bitmask that allows exactly `token_ids`."""
    bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
    bits[np.asarray(token_ids, np.int64)] = 1
    return np.packbits(bits, bitorder="little").view("<u4")
