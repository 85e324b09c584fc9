"""First correct loops in Cython, the second half: see first_cython.py."""

from __future__ import annotations

MINE = """\
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = {n}
    for {item} in range(n * part // n_parts, n * (part + 1) // n_parts):
"""
BY_TOKEN = MINE.format(n="a.n_tokens[0]", item="t")

# As LOOPS of first_cython.py.
REST: dict[str, tuple[bool, str, str]] = {
    "quantize": (
        True,
        "NAN, fabsf, isfinite, rintf",
        """\
    cdef int64_t t, i
"""
        + BY_TOKEN
        + """\
        for i in range(0, a.n_cols, 32):
            quantize_block(a.x + t * a.n_cols + i, a.out_q8 + (t * a.n_cols + i) // 32)
""",
    ),
    "rope_table": (
        False,
        "cos, sin",
        """\
    cdef int64_t t, i
    cdef float *cosine
    cdef double angle
"""
        + BY_TOKEN
        + """\
        cosine = a.out + t * 2 * a.half_dim
        for i in range(a.half_dim):
            angle = <double>(<float>a.positions[t] * a.inv_freq[i])
            cosine[i] = <float>cos(angle)
            cosine[a.half_dim + i] = <float>sin(angle)
""",
    ),
    "embed": (
        False,
        "",
        """\
    cdef int64_t t, k, row
    cdef const float *weight
"""
        + BY_TOKEN
        + """\
        # Packed: 16 rows side by side, column after column (weights/packing.py).
        row = a.token_ids[t]
        weight = a.weight + row // 16 * 16 * a.n_cols + row % 16
        for k in range(a.n_cols):
            a.out[t * a.n_cols + k] = weight[k * 16]
""",
    ),
    "pack": (
        False,
        "",
        """\
    cdef int64_t row, at, k
"""
        + MINE.format(n="a.n_rows", item="row")
        + """\
        at = row + a.row_offset
        for k in range(a.n_cols):
            a.weight[(at // 16 * a.n_cols + k) * 16 + at % 16] = a.raw[row * a.n_cols + k]
""",
    ),
    "attention": (
        True,
        "INFINITY, NAN, exp, fabsf, isfinite, rintf, sqrt",
        """\
    cdef int64_t item, t, h, kv, s, end, first, p, i, slot, head
    cdef const float *q
    cdef const float *k
    cdef const float *v
    cdef double best, total, score, higher, shrink, w
    cdef double sums[256]
    cdef float y[256]
"""
        + MINE.format(n="a.n_tokens[0] * a.n_heads", item="item")
        + """\
        t, h = item // a.n_heads, item % a.n_heads
        kv = h * a.n_kv_heads // a.n_heads
        s = 0
        while a.seq_starts[s + 1] <= t:
            s += 1
        end = <int64_t>a.positions[t] + 1
        first = end - a.window if a.window > 0 and end > a.window else 0
        q = a.qkv + (t * (a.n_heads + 2 * a.n_kv_heads) + h) * a.head_dim
        best = -INFINITY
        total = 0
        for i in range(a.head_dim):
            sums[i] = 0
        for p in range(first, end):  # one pass: rescaled when the maximum rises
            slot = p % a.block_size
            head = a.block_tables[s * a.max_blocks + p // a.block_size]
            head = head * a.n_kv_heads + kv
            k = a.k_cache + head * a.head_dim * a.block_size + slot
            v = a.v_cache + (head * a.block_size + slot) * a.value_stride
            score = 0
            for i in range(a.head_dim):
                score += <double>q[i] * k[i * a.block_size]
            score /= sqrt(<double>a.head_dim)
            higher = score if score > best else best
            shrink, w = exp(best - higher), exp(score - higher)
            best = higher
            total = total * shrink + w
            for i in range(a.head_dim):
                sums[i] = sums[i] * shrink + w * v[i]
        for i in range(a.head_dim):
            y[i] = <float>(sums[i] / total)
            if a.out != NULL:
                a.out[item * a.head_dim + i] = y[i]
        if a.out_q8 != NULL:
            for i in range(0, a.head_dim, 32):
                quantize_block(y + i, a.out_q8 + (item * a.head_dim + i) // 32)
""",
    ),
}
