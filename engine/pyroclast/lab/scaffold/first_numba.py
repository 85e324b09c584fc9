"""First correct loops in Numba, one for each op: plain Python over arrays, to begin with.

A kernel reads its argument struct with the loaders of numba_simd and sees its arrays through
numba.carray, so that the loop reads like the reference.
"""

from __future__ import annotations

IMPORTS = """\
import math

import numba
import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_f64, load_i64, load_pointer, stack
"""

QUANTIZE = '''

@numba.njit(error_model="numpy")
def quantize_block(y, pointer, block):
    """Block number `block` of 64 bytes at `pointer` from y, 32 float32: see activations.py."""
    floats = carray(pointer, (block + 1, 16), np.float32)[block]
    ints = carray(pointer, (block + 1, 16), np.int32)[block]
    values = carray(pointer, (block + 1, 64), np.int8)[block, 16:48]
    largest, finite = np.float32(0), True
    for i in range(32):
        if math.isfinite(y[i]):
            largest = max(largest, abs(y[i]))
        else:
            finite = False
    inverse = np.float32(127) / largest if largest > 0 else np.float32(0)
    scale = largest / np.float32(127)
    if not finite:
        scale = np.float32(np.nan)
    halves = (0, 0)
    for i in range(32):
        q = int(np.rint(y[i] * inverse)) if math.isfinite(y[i]) else 0
        values[i] = q
        halves = (halves[0] + q, halves[1]) if i < 16 else (halves[0], halves[1] + q)
    total = halves[0] + halves[1]
    floats[0], floats[1] = scale, scale * np.float32(total)
    ints[2], ints[3] = -8 * total, -128 * total
    floats[12], floats[13] = scale * np.float32(halves[0]), scale * np.float32(halves[1])
    ints[14], ints[15] = -4 * halves[0], -4 * halves[1]
'''

_TOKENS = """
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)
"""
_MINE = "range(split_begin({n}, part, n_parts), split_begin({n}, part + 1, n_parts))"
_BY_TOKEN = _MINE.format(n="n_tokens")

# op -> (does it need QUANTIZE, the kernel below its `def` line)
LOOPS: dict[str, tuple[bool, str]] = {
    "softmax": (
        False,
        f"""
    n_rows, n_cols = load_i64(load_pointer(args, N_ROWS), 0), load_i64(args, N_COLS)
    logits_stride, out_stride = load_i64(args, LOGITS_STRIDE), load_i64(args, OUT_STRIDE)
    n_words = (n_cols + 31) // 32
    logits = carray(load_pointer(args, LOGITS), (n_rows, logits_stride), np.float32)
    out = carray(load_pointer(args, OUT), (n_rows, out_stride), np.float32)
    temperatures = carray(load_pointer(args, TEMPERATURES), n_rows, np.float64)
    bias = carray(load_pointer(args, BIAS), n_cols, np.float32)
    allowed = carray(load_pointer(args, ALLOWED), (n_rows, n_words), np.uint32)
    has_temperatures, has_bias = load_i64(args, TEMPERATURES) != 0, load_i64(args, BIAS) != 0
    has_allowed, log = load_i64(args, ALLOWED) != 0, load_i64(args, LOG) != 0
    for r in {_MINE.format(n="n_rows")}:
        temperature = temperatures[r] if has_temperatures else 1.0
        best, at, is_bad = -math.inf, 0, False
        for i in range(n_cols):  # z of every column goes to out first: out may be logits itself
            z = logits[r, i]
            if has_bias:
                z += bias[i]
            if has_allowed and (allowed[r, i // 32] >> (i % 32)) & 1 == 0:
                z = np.float32(-np.inf)
            out[r, i] = z
            is_bad |= math.isnan(z)
            if z > best:
                best, at = z, i
        if is_bad or math.isinf(best):  # a NaN, a +inf, or nothing finite
            for i in range(n_cols):
                out[r, i] = np.nan
        elif temperature < 1e-5:
            for i in range(n_cols):
                hit = i == at
                out[r, i] = (0.0 if hit else -np.inf) if log else (1.0 if hit else 0.0)
        else:
            total = 0.0
            for i in range(n_cols):
                total += math.exp((out[r, i] - best) / temperature)
            for i in range(n_cols):
                x = (out[r, i] - best) / temperature
                out[r, i] = x - math.log(total) if log else math.exp(x) / total
""",
    ),
    "norm": (
        True,
        f"""{_TOKENS}
    d_model, eps = load_i64(args, D_MODEL), load_f64(args, EPS)
    rows = carray(load_pointer(args, ROWS), n_tokens, np.int32)
    weight = carray(load_pointer(args, WEIGHT), d_model, np.float32)
    out = carray(load_pointer(args, OUT), (n_tokens, d_model), np.float32)
    has_rows, has_out = load_i64(args, ROWS) != 0, load_i64(args, OUT) != 0
    has_q8 = load_i64(args, OUT_Q8) != 0
    y = carray(stack(128), 32, np.float32)
    for t in {_BY_TOKEN}:
        row = rows[t] if has_rows else t
        x = carray(load_pointer(args, X), (row + 1, d_model), np.float32)[row]
        squares = 0.0
        for i in range(d_model):
            squares += np.float64(x[i] * x[i])
        scale = np.float32(1.0 / math.sqrt(squares / d_model + eps))
        for i in range(d_model):
            y[i % 32] = x[i] * scale * weight[i]
            if has_out:
                out[t, i] = y[i % 32]
            if has_q8 and i % 32 == 31:
                quantize_block(y, load_pointer(args, OUT_Q8), (t * d_model + i) // 32)
""",
    ),
    "glu": (
        True,
        f"""{_TOKENS}
    d_ff, activation = load_i64(args, D_FF), load_i64(args, ACTIVATION)
    gate_up = carray(load_pointer(args, GATE_UP), (n_tokens, 2 * d_ff), np.float32)
    out = carray(load_pointer(args, OUT), (n_tokens, d_ff), np.float32)
    has_out, has_q8 = load_i64(args, OUT) != 0, load_i64(args, OUT_Q8) != 0
    y = carray(stack(128), 32, np.float32)
    for t in {_BY_TOKEN}:
        for i in range(d_ff):
            gate, up = gate_up[t, i], gate_up[t, d_ff + i]
            # In float64 no exponential of a float32 that matters overflows.
            g = np.float64(gate)
            if activation == 2:
                f = g / 2 * math.erfc(-g * math.sqrt(0.5))
            else:
                u = math.sqrt(2 / math.pi) * g * (1 + 0.044715 * g * g)
                f = g / (1 + math.exp(-g if activation == 0 else -2 * u))
            y[i % 32] = np.float32(f) * up
            if has_out:
                out[t, i] = y[i % 32]
            if has_q8 and i % 32 == 31:
                quantize_block(y, load_pointer(args, OUT_Q8), (t * d_ff + i) // 32)
""",
    ),
    "quantize": (
        True,
        f"""{_TOKENS}
    n_cols = load_i64(args, N_COLS)
    x = carray(load_pointer(args, X), (n_tokens, n_cols), np.float32)
    for t in {_BY_TOKEN}:
        for i in range(0, n_cols, 32):
            quantize_block(x[t, i:], load_pointer(args, OUT_Q8), (t * n_cols + i) // 32)
""",
    ),
    "rope_table": (
        False,
        f"""{_TOKENS}
    half = load_i64(args, HALF_DIM)
    positions = carray(load_pointer(args, POSITIONS), n_tokens, np.int32)
    inv_freq = carray(load_pointer(args, INV_FREQ), half, np.float32)
    out = carray(load_pointer(args, OUT), (n_tokens, 2, half), np.float32)
    for t in {_BY_TOKEN}:
        for i in range(half):
            angle = np.float64(np.float32(positions[t]) * inv_freq[i])
            out[t, 0, i], out[t, 1, i] = math.cos(angle), math.sin(angle)
""",
    ),
    "rope": (
        False,
        f"""{_TOKENS}
    n_heads, n_kv_heads = load_i64(args, N_HEADS), load_i64(args, N_KV_HEADS)
    head_dim, block_size = load_i64(args, HEAD_DIM), load_i64(args, BLOCK_SIZE)
    max_blocks, stride = load_i64(args, MAX_BLOCKS), load_i64(args, VALUE_STRIDE)
    half, n_rotated = head_dim // 2, n_heads + n_kv_heads
    positions = carray(load_pointer(args, POSITIONS), n_tokens, np.int32)
    seq_index = carray(load_pointer(args, SEQ_INDEX), n_tokens, np.int32)
    table = carray(load_pointer(args, TABLE), (n_tokens, 2, half), np.float32)
    shape = (n_tokens, n_rotated + n_kv_heads, head_dim)
    qkv = carray(load_pointer(args, QKV), shape, np.float32)
    for t in {_BY_TOKEN}:
        for h in range(n_rotated):
            for i in range(half):
                a, b = qkv[t, h, i], qkv[t, h, i + half]
                cosine, sine = table[t, 0, i], table[t, 1, i]
                qkv[t, h, i] = a * cosine - b * sine
                qkv[t, h, i + half] = b * cosine + a * sine
        position, seq = positions[t], seq_index[t]
        tables = carray(load_pointer(args, BLOCK_TABLES), (seq + 1, max_blocks), np.int32)
        block, slot = tables[seq, position // block_size], position % block_size
        keys = (block + 1, n_kv_heads, head_dim, block_size)
        k_cache = carray(load_pointer(args, K_CACHE), keys, np.float32)
        values = (block + 1, n_kv_heads, block_size, stride)
        v_cache = carray(load_pointer(args, V_CACHE), values, np.float32)
        for h in range(n_kv_heads):
            for i in range(head_dim):
                k_cache[block, h, i, slot] = qkv[t, n_heads + h, i]
                v_cache[block, h, slot, i] = qkv[t, n_rotated + h, i]
""",
    ),
    "matmul": (
        False,
        f"""{_TOKENS}
    n_rows, n_cols = load_i64(args, N_ROWS), load_i64(args, N_COLS)
    out_stride, accumulate = load_i64(args, OUT_STRIDE), load_i64(args, ACCUMULATE) != 0
    x = carray(load_pointer(args, X), (n_tokens, n_cols), np.float32)
    # Weights are packed: 16 rows side by side, column after column (weights/packing.py).
    shape = ((n_rows + 15) // 16, n_cols, 16)
    weight = carray(load_pointer(args, WEIGHT), shape, np.float32)
    bias = carray(load_pointer(args, BIAS), n_rows, np.float32)
    has_bias = load_i64(args, BIAS) != 0
    out = carray(load_pointer(args, OUT), (n_tokens, out_stride), np.float32)
    for row in {_MINE.format(n="n_rows")}:
        for t in range(n_tokens):
            total = np.float32(0)
            for k in range(n_cols):
                total += weight[row // 16, k, row % 16] * x[t, k]
            if has_bias:
                total += bias[row]
            out[t, row] = out[t, row] + total if accumulate else total
""",
    ),
    "embed": (
        False,
        f"""{_TOKENS}
    n_cols = load_i64(args, N_COLS)
    token_ids = carray(load_pointer(args, TOKEN_IDS), n_tokens, np.int32)
    out = carray(load_pointer(args, OUT), (n_tokens, n_cols), np.float32)
    for t in {_BY_TOKEN}:
        group, lane = token_ids[t] // 16, token_ids[t] % 16
        shape = (group + 1, n_cols, 16)  # packed: 16 rows side by side (weights/packing.py)
        weight = carray(load_pointer(args, WEIGHT), shape, np.float32)
        for k in range(n_cols):
            out[t, k] = weight[group, k, lane]
""",
    ),
    "pack": (
        False,
        f"""
    n_rows, n_cols = load_i64(args, N_ROWS), load_i64(args, N_COLS)
    offset = load_i64(args, ROW_OFFSET)
    raw = carray(load_pointer(args, RAW), (n_rows, n_cols), np.float32)
    shape = ((offset + n_rows + 15) // 16, n_cols, 16)
    weight = carray(load_pointer(args, WEIGHT), shape, np.float32)
    for row in {_MINE.format(n="n_rows")}:
        at = row + offset
        for k in range(n_cols):
            weight[at // 16, k, at % 16] = raw[row, k]
""",
    ),
    "attention": (
        True,
        f"""{_TOKENS}
    n_seqs = load_i64(load_pointer(args, N_SEQS), 0)
    n_heads, n_kv_heads = load_i64(args, N_HEADS), load_i64(args, N_KV_HEADS)
    head_dim, block_size = load_i64(args, HEAD_DIM), load_i64(args, BLOCK_SIZE)
    max_blocks, stride = load_i64(args, MAX_BLOCKS), load_i64(args, VALUE_STRIDE)
    window, group = load_i64(args, WINDOW), n_heads // n_kv_heads
    seq_starts = carray(load_pointer(args, SEQ_STARTS), n_seqs + 1, np.int32)
    positions = carray(load_pointer(args, POSITIONS), n_tokens, np.int32)
    tables = carray(load_pointer(args, BLOCK_TABLES), (n_seqs, max_blocks), np.int32)
    shape = (n_tokens, n_heads + 2 * n_kv_heads, head_dim)
    qkv = carray(load_pointer(args, QKV), shape, np.float32)
    out = carray(load_pointer(args, OUT), (n_tokens, n_heads, head_dim), np.float32)
    has_out, has_q8 = load_i64(args, OUT) != 0, load_i64(args, OUT_Q8) != 0
    y = carray(stack(1024), 256, np.float32)  # MAX_HEAD_DIM values
    n_items = n_tokens * n_heads
    for item in {_MINE.format(n="n_items")}:
        t, h = item // n_heads, item % n_heads
        s = 0
        while seq_starts[s + 1] <= t:
            s += 1
        end = np.int64(positions[t]) + 1
        first = max(0, end - window) if window > 0 else 0
        best, total = -math.inf, 0.0
        for i in range(head_dim):
            y[i] = 0
        for p in range(first, end):  # one pass: the sums are rescaled when the maximum rises
            block, slot = tables[s, p // block_size], p % block_size
            keys = (block + 1, n_kv_heads, head_dim, block_size)
            k = carray(load_pointer(args, K_CACHE), keys, np.float32)[block, h // group]
            values = (block + 1, n_kv_heads, block_size, stride)
            v = carray(load_pointer(args, V_CACHE), values, np.float32)[block, h // group, slot]
            score = 0.0
            for i in range(head_dim):
                score += np.float64(qkv[t, h, i]) * k[i, slot]
            score /= math.sqrt(head_dim)
            higher = max(best, score)
            shrink, w = math.exp(best - higher), math.exp(score - higher)
            best, total = higher, total * shrink + w
            for i in range(head_dim):
                y[i] = y[i] * shrink + w * v[i]
        for i in range(head_dim):
            y[i] /= total
            if has_out:
                out[t, h, i] = y[i]
        if has_q8:
            for i in range(0, head_dim, 32):
                block = (item * head_dim + i) // 32
                quantize_block(y[i:], load_pointer(args, OUT_Q8), block)
""",
    ),
}
