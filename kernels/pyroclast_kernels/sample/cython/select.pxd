# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# How far a prefix of the falling order reaches, without sorting: by count or by weight.
#
# Values are spread over the buckets of a histogram, from the largest down; the bucket in which
# the running sum reaches its goal is taken apart by the next level, and so on, until it holds one
# value.  Level 0 cuts the range of values evenly, which for logits leaves a few candidates.
# Later levels cut the range of their bit patterns, 10 bits a time, so there are at most 4 more
# whatever the values: no input is slow.  A long list is first narrowed to the neighbourhood of
# the goal as a sample of it tells; if the sample was wrong, which its sums show, to nothing.
# A short list is sorted: that takes less time than clearing a histogram.
# Sums of histograms are float64; their order depends on n alone.
from libc.float cimport FLT_MAX
from libc.math cimport ceil, sqrt
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pyroclast_kernels.activation.cython.lanes cimport choose, sum_lanes
from pyroclast_kernels.sample.cython.histogram cimport (
    Active, Spread, crossing, keep_bucket, least_and_most, ordered, spread_of,
)
from pyroclast_kernels.sample.cython.lanes cimport (
    ALL_TIES, Cut, Weigher, clear, sixteen, weigh,
)

cdef enum:
    MAX_SAMPLE = 4096
    LONG_LIST = 16384
    SHORT_LIST = 128


cdef extern from "<algorithm>" namespace "std" nogil:
    void sort(uint64_t *first, uint64_t *last) noexcept


# Working memory of a part for selection.
cdef struct SelectScratch:
    float *values  # a whole vocabulary and 16 more
    float *weights
    float *sample_values  # (MAX_SAMPLE + 16,)
    float *sample_weights
    double *histogram  # (BUCKETS, COPIES)


# ---- the exact cut ----------------------------------------------------------------------------


cdef inline int64_t ties_needed(Active a, double goal, double sum) noexcept nogil:
    """How many of the equal values in `a` it takes, in their order, for the sum to reach its goal.
    """
    cdef float least, most
    cdef double needed
    cdef int64_t n = 1
    least_and_most(a.weights, a.n, &least, &most)
    if least == most:  # no need to walk through what may be the whole vocabulary
        needed = ceil((goal - sum) / most)
        if needed >= 1:
            n = <int64_t>needed if needed < <double>a.n else a.n
    else:
        sum += a.weights[0]
        while n < a.n and sum < goal:
            sum += a.weights[n]
            n += 1
    return ALL_TIES if n == a.n else n


cdef inline Cut select_short(Active a, double goal, double sum) noexcept nogil:
    # The upper half of a key falls with the value, equal for equal values; the lower is the index.
    cdef uint64_t order[SHORT_LIST]
    cdef uint32_t falling
    cdef int64_t i, last = 0, n_ties = 1
    cdef Cut cut
    for i in range(a.n):
        falling = <uint32_t>0x7fffffff - <uint32_t>ordered(a.values[i])
        order[i] = <uint64_t>falling << 32 | <uint64_t>i
    sort(order, order + a.n)
    sum += a.weights[<uint32_t>order[0]]
    while sum < goal and last + 1 < a.n:
        last += 1
        sum += a.weights[<uint32_t>order[last]]
        n_ties = n_ties + 1 if order[last] >> 32 == order[last - 1] >> 32 else 1
    cut.value = a.values[<uint32_t>order[last]]
    cut.n_ties = n_ties
    if last + 1 == a.n or order[last + 1] >> 32 != order[last] >> 32:
        cut.n_ties = ALL_TIES
    return cut


cdef inline Cut select_exactly(
    Active a, double goal, double sum, double *histogram
) noexcept nogil:
    cdef bint first_level = True
    cdef float least, most
    cdef Spread spread
    cdef Cut cut
    while a.n > SHORT_LIST:
        least_and_most(a.values, a.n, &least, &most)
        if least == most:
            cut.value, cut.n_ties = most, ties_needed(a, goal, sum)
            return cut
        spread = spread_of(least, most, first_level)
        keep_bucket(&a, spread, crossing(a, spread, histogram, goal, &sum))
        first_level = False
    return select_short(a, goal, sum)


# ---- long lists -------------------------------------------------------------------------------

# The weights of candidates: given, or (weights is NULL) those of logits that are at least `lowest`.
cdef struct Weights:
    const float *weights
    Weigher weigher
    float lowest


cdef inline Active take_sample(
    const float *values, int64_t n, const SelectScratch *s, Weights of
) noexcept nogil:
    """Every so many-th 16 of n >= LONG_LIST values, a 32nd of them all or MAX_SAMPLE."""
    cdef int64_t n_vectors = min(n // 32, <int64_t>MAX_SAMPLE) // 16
    cdef int64_t stride = n // n_vectors // 16 * 16, i
    cdef float zero = 0, lowest = of.lowest
    cdef const float *x
    cdef float *w
    cdef Active sample
    cdef int j
    for i in range(n_vectors):
        x, w = values + i * stride, s.sample_weights + 16 * i
        memcpy(s.sample_values + 16 * i, x, 64)
        if of.weights != NULL:
            memcpy(w, of.weights + i * stride, 64)
        else:
            for j in range(16):
                w[j] = choose(x[j] >= lowest, weigh(of.weigher, x[j]), zero)
    sample.values, sample.weights, sample.n = s.sample_values, s.sample_weights, 16 * n_vectors
    return sample


cdef inline bint bracket(
    const float *values, int64_t n, double share, const SelectScratch *s, Weights of,
    float *lower, float *upper
) noexcept nogil:
    """Two values between which, as a sample tells, the prefix with `share` of the weight ends, more
    likely than not by far.  False if too few tokens carry the weight for a sample to tell."""
    cdef Active sample = take_sample(values, n, s, of)
    cdef float lanes[16]
    cdef float squared[16]
    cdef double total = 0, squares = 0, noise
    cdef int64_t i
    cdef int j
    for i in range(0, sample.n, 16):
        for j in range(16):
            lanes[j] = sample.weights[i + j]
            squared[j] = sample.weights[i + j] * sample.weights[i + j]
        total += sum_lanes(lanes)
        squares += sum_lanes(squared)
    noise = 3 * sqrt(share * (1 - share) * squares) / total + 2 / <double>sample.n
    if not noise < 0.2:  # also if the weights are all 0
        return False
    lower[0], upper[0] = -FLT_MAX, FLT_MAX
    if share > noise:
        upper[0] = select_exactly(sample, (share - noise) * total, 0, s.histogram).value
    if share + noise < 1:
        sample = take_sample(values, n, s, of)
        lower[0] = select_exactly(sample, (share + noise) * total, 0, s.histogram).value
    return True


cdef inline void narrow(
    Active *a, double goal, double total, double *sum, const SelectScratch *s
) noexcept nogil:
    """Leaves only the values of a bracket around the goal, if the weights above its ends show that
    it is one; `total` is the weight of all candidates."""
    cdef float not_above_lanes[16]
    cdef float from_lower_lanes[16]
    cdef float padded[16]
    cdef float lower, upper, zero = 0
    cdef double not_above = 0, from_lower = 0
    cdef int64_t i, j, found = 0
    cdef const float *x
    cdef const float *w
    cdef Weights of
    cdef int k
    of.weights, of.lowest = a.weights, 0
    of.weigher.maximum = of.weigher.scale = 0
    if not bracket(a.values, a.n, goal / total, s, of, &lower, &upper):
        return
    for i in range(0, a.n, 1024):
        clear(not_above_lanes, 16)
        clear(from_lower_lanes, 16)
        for j in range(i, min(a.n, i + 1024), 16):
            x = a.values + j
            w = sixteen(a.weights + j, a.n - j, 0, padded)
            for k in range(16):
                not_above_lanes[k] += choose(upper >= x[k], w[k], zero)
                from_lower_lanes[k] += choose(x[k] >= lower, w[k], zero)
        not_above += sum_lanes(not_above_lanes)
        from_lower += sum_lanes(from_lower_lanes)
    if sum[0] + total - not_above >= goal or sum[0] + from_lower < goal:
        return
    sum[0] += total - not_above
    for i in range(a.n):
        a.values[found], a.weights[found] = a.values[i], a.weights[i]
        found += (lower <= a.values[i]) & (a.values[i] <= upper)
    a.n = found


cdef inline Cut select(
    Active a, double goal, double total, const SelectScratch *s
) noexcept nogil:
    """The shortest prefix whose weights reach `goal`, 0 < goal <= total = the sum of all weights.
    """
    cdef double sum = 0
    if a.n >= LONG_LIST:
        narrow(&a, goal, total, &sum, s)
    return select_exactly(a, goal, sum, s.histogram)


cdef inline Cut select_count(
    const float *values, int64_t n, int64_t k, const SelectScratch *s
) noexcept nogil:
    """The first k of the n values; 1 <= k <= n, none of them -inf."""
    cdef Active a
    cdef int64_t i
    memcpy(s.values, values, n * sizeof(float))
    for i in range(n):
        s.weights[i] = 1
    a.values, a.weights, a.n = s.values, s.weights, n
    return select(a, <double>k, <double>n, s)
