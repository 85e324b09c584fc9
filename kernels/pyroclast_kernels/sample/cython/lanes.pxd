# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Sixteen logits at a time: their weights, sums of them, and which of them lie inside a cut.
#
# Loops are plain, for GCC to vectorize: see native/abi.pxd.  There are no bit masks: a loop over
# lanes tells whether any of them is wanted, and only then they are walked one by one.  Sums over
# the lanes themselves cost more than what they sum, so counts stay in lanes as well.
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, fmaf, log2
from libc.stdint cimport int32_t, int64_t

from pyroclast_kernels.activation.cython.lanes cimport Bits, choose, sum_lanes

cdef enum:
    BLOCK = 1024  # tokens whose weights are summed together in float32


cdef extern from "<stdint.h>" nogil:
    const int64_t ALL_TIES "INT64_MAX"


cdef inline const float *sixteen(
    const float *x, int64_t n, float fill, float *padded
) noexcept nogil:
    """x itself where it has 16 values, else a copy of the n that are left, filled up."""
    cdef int i
    if n >= 16:
        return x
    for i in range(16):
        padded[i] = x[i] if i < n else fill
    return padded


cdef inline int32_t count_of(const int32_t *lanes, int n) noexcept nogil:
    """The sum of n lanes."""
    cdef int32_t total = 0
    cdef int i
    for i in range(n):
        total += lanes[i]
    return total


cdef inline bint none_of_64(const float *x, float lowest) noexcept nogil:
    """Whether all of 64 values are below `lowest`, as most are as a rule."""
    cdef int32_t found = 0
    cdef int i
    for i in range(64):
        found |= x[i] >= lowest
    return found == 0


# ---- weights ----------------------------------------------------------------------------------


cdef inline float power_of_two(float y) noexcept nogil:
    """2^y for -125 <= y <= 0: y = n + f with |f| <= 1/2, the polynomial of Moshier's Cephes exp2f,
    and n added to the exponent.  Relative error 2e-7; exactly 1 at 0."""
    cdef float magic = 12582912.0  # rounds to an integer
    cdef Bits shifted, power
    shifted.as_float = y + magic
    cdef float f = y - (shifted.as_float - magic)
    cdef float p = fmaf(1.535336188319500e-4, f, 1.339887440266574e-3)
    p = fmaf(p, f, 9.618437357674640e-3)
    p = fmaf(p, f, 5.550332471162809e-2)
    p = fmaf(p, f, 2.402264791363012e-1)
    p = fmaf(p, f, 6.931472028550421e-1)
    power.as_float = fmaf(p, f, 1)
    power.as_int += shifted.as_int << 23
    return power.as_float


# Of a row: -inf is a value like others, NaN is none.
cdef struct Extremes:
    float maximum
    float minimum


# Weights exp((logit - maximum) / temperature), 0 below 2^-125 (and at -inf).
cdef struct Weigher:
    float maximum
    float scale
    bint plain  # no weight underflows: a PlainWeigher will do


cdef struct PlainWeigher:
    float maximum
    float scale


ctypedef fused AnyWeigher:
    Weigher
    PlainWeigher


cdef inline Weigher weigher_of(Extremes logits, double temperature) noexcept nogil:
    cdef Weigher weigher
    weigher.maximum, weigher.scale = logits.maximum, <float>(1.4426950408889634 / temperature)
    # Rounding keeps the order, so what holds for the smallest logit holds for all.
    weigher.plain = (logits.minimum - logits.maximum) * weigher.scale >= -125
    return weigher


cdef inline PlainWeigher plain(Weigher weigher) noexcept nogil:
    cdef PlainWeigher same
    same.maximum, same.scale = weigher.maximum, weigher.scale
    return same


cdef inline float weigh(AnyWeigher weigher, float logit) noexcept nogil:
    cdef float y = (logit - weigher.maximum) * weigher.scale, lowest = -125, zero = 0
    if AnyWeigher is PlainWeigher:
        return power_of_two(y)
    else:
        return choose(y >= lowest, power_of_two(choose(y > lowest, y, lowest)), zero)


cdef inline double logit_of(Weigher weigher, double weight) noexcept nogil:
    """The logit, not rounded to float32, of a weight > 0; at least the least float."""
    return max(<double>-FLT_MAX, weigher.maximum + log2(weight) / weigher.scale)


# ---- sums of blocks -----------------------------------------------------------------------------

# What may be summed of every logit x.
cdef struct One:  # 1
    float one


cdef struct Distance:  # x - top
    float top


cdef struct Square:  # (x - top - shift)^2
    float top
    float shift


cdef struct Moment:  # weight * (x - near)
    Weigher weigher
    float near


ctypedef fused Term:
    Weigher
    PlainWeigher
    One
    Distance
    Square
    Moment


cdef inline float term_of(Term term, float x) noexcept nogil:
    if Term is Weigher or Term is PlainWeigher:
        return weigh(term, x)
    elif Term is One:
        return term.one
    elif Term is Distance:
        return x - term.top
    elif Term is Square:
        return ((x - term.top) - term.shift) * ((x - term.top) - term.shift)
    else:
        return weigh(term.weigher, x) * (x - term.near)


cdef inline void clear(float *lanes, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        lanes[i] = 0


cdef inline float sum_pairs(float *lanes) noexcept nogil:
    """The sum of 32 lanes: 16 + 16, then as sum_lanes; they are spent."""
    cdef int i
    for i in range(16):
        lanes[i] = lanes[i] + lanes[i + 16]
    return sum_lanes(lanes)


cdef inline double sum_over(const float *x, int64_t n, float lowest, Term term) noexcept nogil:
    """The sum of a term over the values that are at least `lowest`, by blocks."""
    cdef float sums[32]
    cdef float padded[16]
    cdef float zero = 0, minus_infinity = -INFINITY
    cdef double total = 0
    cdef int64_t block, begin, end, i
    cdef const float *at
    cdef int j
    for block in range((n + BLOCK - 1) // BLOCK):
        begin = block * BLOCK
        end = min(n, begin + BLOCK)
        clear(sums, 32)
        i = begin
        while i + 32 <= end:
            at = x + i
            for j in range(32):
                sums[j] += choose(at[j] >= lowest, term_of(term, at[j]), zero)
            i += 32
        while i < end:
            at = sixteen(x + i, end - i, minus_infinity, padded)
            for j in range(16):
                sums[j] += choose(at[j] >= lowest, term_of(term, at[j]), zero)
            i += 16
        total += sum_pairs(sums)
    return total


cdef inline double sum_weights(const float *logits, int64_t n, Weigher weigher) noexcept nogil:
    if weigher.plain:
        return sum_over(logits, n, -FLT_MAX, plain(weigher))
    return sum_over(logits, n, -FLT_MAX, weigher)


cdef inline double weigh_all(
    Weigher weigher, const float *logits, int64_t n, float *weights
) noexcept nogil:
    """Writes the weights of n logits, and of up to 15 more; returns their sum."""
    cdef float sums[16]
    cdef float padded[16]
    cdef float minus_infinity = -INFINITY
    cdef double total = 0
    cdef int64_t block, begin, end, i
    cdef const float *at
    cdef float w
    cdef int j
    for block in range((n + BLOCK - 1) // BLOCK):
        begin = block * BLOCK
        end = min(n, begin + BLOCK)
        clear(sums, 16)
        for i in range(begin, end, 16):
            at = sixteen(logits + i, end - i, minus_infinity, padded)
            for j in range(16):
                w = weigh(weigher, at[j])
                sums[j] += w
                weights[i + j] = w
        total += sum_lanes(sums)
    return total


# ---- cuts -------------------------------------------------------------------------------------

# A prefix of the falling order: every value above `value`, and the first `n_ties` (in the order of
# the array) that equal it.
cdef struct Cut:
    float value
    int64_t n_ties


cdef inline int inside(Cut *left, const float *keys, int32_t *keep) noexcept nogil:
    """keep (16,) = 1 for the keys that belong to the prefix, else 0; returns how many do.  Called
    along the row, it counts the ties in `left` down."""
    cdef float value = left.value
    cdef int32_t n = 0, n_tied = 0
    cdef int i
    if left.n_ties == ALL_TIES:
        for i in range(16):
            keep[i] = keys[i] >= value
            n += keep[i]
        return n
    for i in range(16):
        keep[i] = keys[i] > value
        n += keep[i]
        n_tied += keys[i] == value
    if n_tied and n_tied <= left.n_ties:
        for i in range(16):
            keep[i] |= keys[i] == value
        left.n_ties -= n_tied
        return n + n_tied
    for i in range(16):
        if keys[i] == value and left.n_ties > 0:
            keep[i] = 1
            n += 1
            left.n_ties -= 1
    return n
