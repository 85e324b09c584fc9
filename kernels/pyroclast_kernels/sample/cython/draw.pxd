# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Stage 12, the draw: one pass adds the weights inside a cut up by blocks of 1024 tokens, the random
# number picks a block, and only that block is walked.
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, nextafterf
from libc.stdint cimport int32_t, int64_t

from pyroclast_kernels.activation.cython.lanes cimport choose
from pyroclast_kernels.sample.cython.lanes cimport (
    ALL_TIES, BLOCK, Cut, PlainWeigher, Weigher, clear, count_of, inside, none_of_64, plain,
    sixteen, sum_pairs, weigh,
)
from pyroclast_kernels.sample.cython.list cimport Scratch


cdef inline int64_t walk(const float *weights, int64_t n, double t) noexcept nogil:
    """The index in [0, n) at which the running sum of `weights` first exceeds t; where rounding
    keeps it below, the last index whose weight is not 0."""
    cdef double sum = 0
    cdef int64_t i, last = 0
    for i in range(n):
        if weights[i] <= 0:
            continue
        last = i
        sum += weights[i]
        if sum > t:
            break
    return last


cdef inline int64_t pick_block(const double *sums, int64_t n_blocks, double *t) noexcept nogil:
    """The block in which the running sum of `sums` exceeds t; t becomes what is left for inside it.
    """
    cdef double before = 0, sum = 0
    cdef int64_t b, last = 0
    for b in range(n_blocks):
        if sums[b] <= 0:
            continue
        last, before = b, sum
        sum += sums[b]
        if sum > t[0]:
            break
    t[0] -= before
    return last


cdef inline int64_t draw_from_blocks(
    const float *logits, int64_t n, Weigher weigher, Cut cut, double u, int64_t n_blocks, Scratch *s
) noexcept nogil:
    """The index drawn at u, once block_sums and block_ties are known."""
    cdef float padded[16]
    cdef int32_t wanted[16]
    cdef float zero = 0, minus_infinity = -INFINITY
    cdef double total = 0, t
    cdef int64_t b, block, begin, end, i
    cdef const float *at
    cdef int j
    for b in range(n_blocks):
        total += s.block_sums[b]
    t = u * total
    block = pick_block(s.block_sums, n_blocks, &t)
    begin = block * BLOCK
    end = min(n, begin + BLOCK)
    cut.n_ties = s.block_ties[block]
    for i in range(begin, end, 16):
        at = sixteen(logits + i, end - i, minus_infinity, padded)
        inside(&cut, at, wanted)
        for j in range(16):
            s.block_weights[i - begin + j] = choose(wanted[j], weigh(weigher, at[j]), zero)
    return begin + walk(s.block_weights, end - begin, t)


cdef inline void add_all(
    const float *logits, int64_t n, PlainWeigher weigher, float *sums
) noexcept nogil:
    """Adds the weights of n logits, a multiple of 32, to 32 lanes."""
    cdef int64_t i
    cdef int j
    for i in range(0, n, 32):
        for j in range(32):
            sums[j] += weigh(weigher, logits[i + j])


cdef inline int64_t add_at_least(
    const float *logits, int64_t n, Weigher weigher, Cut *left, float *sums
) noexcept nogil:
    """As add_inside, for n logits, a multiple of 64, that all ties are left for, or none."""
    cdef int32_t kept[32]
    cdef int32_t tied[32]
    cdef float value = left.value, zero = 0
    cdef float least = value if left.n_ties else nextafterf(value, INFINITY)
    cdef int64_t i
    cdef const float *x
    cdef int half, j
    for j in range(32):
        kept[j] = tied[j] = 0
    for i in range(0, n, 64):
        if none_of_64(logits + i, least):
            continue
        for half in range(2):
            x = logits + i + 32 * half
            for j in range(32):
                sums[j] += choose(x[j] >= least, weigh(weigher, x[j]), zero)
                kept[j] += x[j] >= least
                tied[j] += x[j] == value
    if left.n_ties != 0 and left.n_ties != ALL_TIES:
        left.n_ties -= count_of(tied, 32)
    return count_of(kept, 32)


cdef inline int64_t add_inside(
    const float *x, int64_t n, Weigher weigher, Cut *left, float *sums
) noexcept nogil:
    """Adds the weights of up to 32 logits that lie inside a cut; returns how many do."""
    cdef float padded[16]
    cdef int32_t wanted[32]
    cdef float zero = 0, minus_infinity = -INFINITY
    cdef const float *at
    cdef int64_t kept = 0, here
    cdef int half, j
    for half in range(0, 32, 16):
        at = sixteen(x + half, n - half, minus_infinity, padded)
        here = inside(left, at, wanted)
        if not here:
            continue
        kept += here
        for j in range(16):
            sums[half + j] += choose(wanted[j], weigh(weigher, at[j]), zero)
    return kept


cdef inline int64_t draw(
    const float *logits, int64_t n, Weigher weigher, Cut cut, double u, Scratch *s, int64_t *n_kept
) noexcept nogil:
    """Draws one of the n tokens inside the cut: its index; n_kept tells how many there are."""
    cdef float sums[32]
    cdef bint everything = cut.value == <float>-FLT_MAX and cut.n_ties == ALL_TIES
    cdef Cut left = cut
    cdef int64_t block, begin, end, i, whole
    n_kept[0] = 0
    for block in range((n + BLOCK - 1) // BLOCK):
        begin = block * BLOCK
        end = min(n, begin + BLOCK)
        s.block_ties[block] = left.n_ties
        clear(sums, 32)
        whole = (end - begin) // 64 * 64
        if everything and weigher.plain:
            add_all(logits + begin, whole, plain(weigher), sums)
            n_kept[0] += whole
        elif left.n_ties == 0 or left.n_ties >= BLOCK:
            n_kept[0] += add_at_least(logits + begin, whole, weigher, &left, sums)
        else:
            whole = 0
        for i in range(begin + whole, end, 32):
            n_kept[0] += add_inside(logits + i, end - i, weigher, &left, sums)
        s.block_sums[block] = sum_pairs(sums)
    return draw_from_blocks(logits, n, weigher, cut, u, (n + BLOCK - 1) // BLOCK, s)
