# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Passes over a row of logits, or over the list of tokens that a cut has left of it.
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, fabsf, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcpy

from pyroclast_kernels.sample.cython.histogram cimport BUCKETS, COPIES, Active
from pyroclast_kernels.sample.cython.lanes cimport (
    BLOCK, Cut, Distance, Extremes, Moment, One, Square, Weigher, inside, none_of_64, sixteen,
    sum_over, weigh_all,
)
from pyroclast_kernels.sample.cython.select cimport MAX_SAMPLE, SelectScratch, select, select_count

cdef enum:
    CHUNK = 1024  # values; those whose index is the same modulo 16 form a group: see scan


# One part's working memory; scratch_bytes in __init__.py reserves it.
cdef struct Scratch:
    float *adjusted
    float *logits
    float *keys
    int32_t *ids
    float *top_logits  # top_p.pxd: a list besides `logits` and `ids`
    int32_t *top_ids
    float *groups  # maxima of groups: see scan
    float *block_weights  # (BLOCK,)
    double *block_sums
    int64_t *block_ties  # the ties left at the start of each block
    SelectScratch select


# Tokens in order of id.
cdef struct List:
    int32_t *ids
    float *logits
    int64_t n


cdef inline float *take(float **at, int64_t n) noexcept nogil:
    at[0] += n
    return at[0] - n


cdef inline void lay_out(Scratch *s, uint8_t *memory, int64_t vocab_size) noexcept nogil:
    cdef int64_t padded = (vocab_size + 63) // 64 * 64 + 64
    cdef float *at = <float *>memory
    s.adjusted = take(&at, padded)
    s.logits = take(&at, padded)
    s.keys = take(&at, padded)
    s.ids = <int32_t *>take(&at, padded)
    s.select.values = take(&at, padded)
    s.select.weights = take(&at, padded)
    s.top_logits = take(&at, padded)
    s.top_ids = <int32_t *>take(&at, padded)
    s.groups = take(&at, padded // 1024 * 16 + 16)
    s.select.sample_values = take(&at, MAX_SAMPLE + 64)
    s.select.sample_weights = take(&at, MAX_SAMPLE + 64)
    s.block_weights = take(&at, BLOCK + 64)
    s.select.histogram = <double *>take(&at, 2 * BUCKETS * COPIES)
    s.block_sums = <double *>take(&at, 2 * (padded // BLOCK + 1))
    s.block_ties = <int64_t *>at


# ---- passes over a row ------------------------------------------------------------------------


cdef inline bint scan_chunk(const float *x, float *top, Extremes *extremes) noexcept nogil:
    """top (16,) = the maximum of each group of a chunk; `extremes` are widened to hold all
    of its values.  False if one is NaN."""
    cdef float lanes[64]
    cdef float low[16]
    cdef float a, b, plus_infinity = INFINITY, minus_infinity = -INFINITY
    cdef int32_t nan[16]
    cdef int32_t any_nan = 0
    cdef const float *at
    cdef int i, j
    for j in range(64):
        lanes[j] = minus_infinity
    for j in range(16):
        low[j], nan[j] = plus_infinity, 0
    for i in range(0, 1024, 64):
        at = x + i
        for j in range(64):
            lanes[j] = at[j] if at[j] > lanes[j] else lanes[j]
        for j in range(16):
            a = at[j] if at[j] < at[j + 16] else at[j + 16]
            b = at[j + 32] if at[j + 32] < at[j + 48] else at[j + 48]
            a = a if a < b else b
            low[j] = a if a < low[j] else low[j]
            nan[j] |= (at[j] != at[j]) | (at[j + 16] != at[j + 16])
            nan[j] |= (at[j + 32] != at[j + 32]) | (at[j + 48] != at[j + 48])
    for j in range(32):
        lanes[j] = lanes[j] if lanes[j] > lanes[j + 32] else lanes[j + 32]
    for j in range(16):
        top[j] = lanes[j] if lanes[j] > lanes[j + 16] else lanes[j + 16]
        extremes.maximum = max(extremes.maximum, top[j])
        extremes.minimum = min(extremes.minimum, low[j])
        any_nan |= nan[j]
    return any_nan == 0


cdef inline bint scan(
    const float *x, int64_t n, float *groups, Extremes *extremes
) noexcept nogil:
    """The maximum and the minimum of n >= 1 values; false if one is NaN.  The maximum of each
    group of the whole chunks, or -FLT_MAX for one of -inf, goes to `groups`, if given:
    n / CHUNK * 16 floats."""
    cdef float top[16]
    cdef float floor = -FLT_MAX
    cdef bint numbers = True
    cdef int64_t i = 0
    cdef int j
    cdef Extremes found
    found.maximum, found.minimum = -INFINITY, INFINITY
    while i + CHUNK <= n:
        numbers &= scan_chunk(x + i, top, &found)
        if groups != NULL:
            for j in range(16):
                groups[i // 64 + j] = top[j] if top[j] > floor else floor
        i += CHUNK
    while i < n:
        numbers &= x[i] == x[i]
        found.maximum = max(found.maximum, x[i])
        found.minimum = min(found.minimum, x[i])
        i += 1
    extremes[0] = found
    return numbers


cdef inline int64_t first_equal(const float *x, int64_t n, float wanted) noexcept nogil:
    """The index of the first value that equals `wanted`, which occurs."""
    cdef int32_t found = 0
    cdef int64_t i = 0
    cdef int j
    while i + 64 <= n:
        for j in range(64):
            found |= x[i + j] == wanted
        if found:
            break
        i += 64
    while x[i] != wanted:
        i += 1
    return i


cdef inline int64_t count_above(const float *x, int64_t n, float limit) noexcept nogil:
    cdef int64_t i
    cdef int32_t found = 0
    for i in range(n):
        found += x[i] > limit
    return found


cdef inline double deviation(const float *x, int64_t n, float maximum) noexcept nogil:
    """The population standard deviation of the finite values; two passes, for float32 sums."""
    cdef One one
    cdef Distance distance
    cdef Square square
    one.one = 1
    distance.top = square.top = maximum
    cdef double n_finite = sum_over(x, n, -FLT_MAX, one)
    square.shift = <float>(sum_over(x, n, -FLT_MAX, distance) / n_finite)
    return sqrt(sum_over(x, n, -FLT_MAX, square) / n_finite)


# ---- lists ------------------------------------------------------------------------------------


cdef inline void gather(List *to, const float *z, int64_t n, float lowest) noexcept nogil:
    """Lists the tokens whose logits are at least `lowest` > -inf."""
    cdef float *logits = to.logits
    cdef int32_t *ids = to.ids
    cdef float padded[16]
    cdef float minus_infinity = -INFINITY
    cdef int64_t i = 0, found = 0
    cdef const float *at
    cdef int j
    while i < n:
        if i + 64 <= n and none_of_64(z + i, lowest):
            i += 64
            continue
        for i in range(i, min(i + 64, n), 16):
            at = sixteen(z + i, n - i, minus_infinity, padded)
            for j in range(16):  # without a branch: what is not wanted is written over
                logits[found] = at[j]
                ids[found] = <int32_t>i + j
                found += at[j] >= lowest
        i += 16
    to.n = found


cdef inline void keep(List *to, const float *keys, Cut cut) noexcept nogil:
    """Shortens the list to the prefix `cut` of the falling order of `keys`; ids stay in order."""
    cdef float *logits = to.logits
    cdef int32_t *ids = to.ids
    cdef float padded[16]
    cdef int32_t wanted[16]
    cdef float minus_infinity = -INFINITY
    cdef int64_t i, n = to.n, found = 0
    cdef int j
    for i in range(0, n, 16):
        if not inside(&cut, sixteen(keys + i, n - i, minus_infinity, padded), wanted):
            continue
        for j in range(16):
            logits[found] = logits[i + j]
            ids[found] = ids[i + j]
            found += wanted[j]
    to.n = found


cdef inline float bound_of_kth(
    const float *z, int64_t n, int64_t k, const float *groups, Scratch *s
) noexcept nogil:
    """A lower bound of the k-th largest value: the k-th largest of the maxima of at least 4 k
    groups.  -FLT_MAX if that would take groups of a few values.  `groups`: as scan left them."""
    cdef float top[16]
    cdef float least = -FLT_MAX
    cdef int64_t n_vectors = n // 16, stride = 64, n_groups, g, i
    cdef const float *at
    cdef int j
    while stride > 1 and n_vectors // stride * 16 < 4 * k:
        stride //= 4
    if stride == 1:
        return -FLT_MAX
    n_groups = n_vectors // stride * 16
    if stride < 64:
        for g in range(0, n_groups, 16):
            for j in range(16):
                top[j] = least
            for i in range(stride):
                at = z + g * stride + 16 * i
                for j in range(16):
                    top[j] = at[j] if at[j] > top[j] else top[j]
            for j in range(16):
                s.keys[g + j] = top[j]
        groups = s.keys
    return select_count(groups, n_groups, k, &s.select).value


cdef inline void cut_typical(
    List *to, double typical_p, Weigher weigher, Scratch *s
) noexcept nogil:
    """Stage 10, by closeness to the mean logit.  The mean is found in two steps and kept as the sum
    of two floats: a distance is then exact to its own last places, however far the maximum is."""
    cdef double total = weigh_all(weigher, to.logits, to.n, s.select.weights), better
    cdef float mean = weigher.maximum, rest = 0
    cdef Moment moment
    cdef int64_t i
    cdef Active active
    moment.weigher = weigher
    for _ in range(2):
        moment.near = mean
        better = mean + sum_over(to.logits, to.n, -FLT_MAX, moment) / total
        mean = <float>better
        rest = <float>(better - mean)
    for i in range(to.n):
        s.keys[i] = -fabsf((to.logits[i] - mean) - rest)
    if typical_p <= 0:
        keep(to, s.keys, select_count(s.keys, to.n, 1, &s.select))
        return
    memcpy(s.select.values, s.keys, to.n * sizeof(float))
    active.values, active.weights, active.n = s.select.values, s.select.weights, to.n
    keep(to, s.keys, select(active, typical_p * total, total, &s.select))
