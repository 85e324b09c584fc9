"""The likeliest tokens of a row, in Numba."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.numba.simd import (
    apart,
    load_f32,
    load_i32,
    load_i64,
    outline,
    store_f32,
    store_i32,
    store_i64,
)
from pyroclast_kernels.sample.numba.bracket import select_count
from pyroclast_kernels.sample.numba.cuts import bound_of_kth
from pyroclast_kernels.sample.numba.draw import gather, keep
from pyroclast_kernels.sample.numba.lanes import scan
from pyroclast_kernels.sample.numba.sort import falling_key, index_of_key, sorted_keys


@outline
def report_top(
    logits: Any, n: int, n_top: int, maximum: Any, log_total: Any, ids: Any, logprobs: Any,
    s: Any,
) -> None:  # fmt: skip
    """The n_top most likely of the raw logits, best first; -1 and -inf where there are fewer."""
    apart()
    scan(logits, n, s.groups, True)  # its groups may be those of other logits by now
    listed = gather(s.ids, s.logits, logits, n, bound_of_kth(logits, n, n_top, s))
    if listed > n_top:
        cut = select_count(s.logits, listed, n_top, s)
        listed = keep(s.ids, s.logits, listed, s.logits, cut)
    # Eight bytes a key: `values` runs on into `weights`, and `top_logits` into `top_ids`.
    for i in range(listed):
        token_id = np.int64(load_i32(s.ids, 4 * i))
        store_i64(s.values, 8 * i, falling_key(load_f32(s.logits, 4 * i), token_id))
    order = sorted_keys(s.values, s.top_logits, listed)
    for i in range(n_top):
        token_id, logprob = np.int64(-1), -math.inf
        if i < listed:
            token_id = index_of_key(load_i64(order, 8 * i))
            logprob = np.float64(load_f32(logits, 4 * token_id)) - maximum - log_total
        store_i32(ids, 4 * i, np.int32(token_id))
        store_f32(logprobs, 4 * i, np.float32(logprob))
