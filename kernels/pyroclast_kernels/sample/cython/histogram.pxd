# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# One level of a selection: candidates spread over the buckets of a histogram, see select.pxd.
from libc.float cimport FLT_MAX
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memset

from pyroclast_kernels.activation.cython.lanes cimport Bits
from pyroclast_kernels.sample.cython.lanes cimport sixteen

cdef enum:
    BUCKETS = 1024
    COPIES = 4  # of each bucket, in turn: adding to one address is latency-bound


# Candidates in scratch memory, which is used up; weights >= 0 and not all 0.
cdef struct Active:
    float *values  # room for n and 16 more, like weights
    float *weights
    int64_t n


cdef inline int32_t ordered(float x) noexcept nogil:
    """Float bits as an integer of the same order.  Adding 0 makes the two zeros one."""
    cdef float zero = 0
    cdef Bits bits
    bits.as_float = x + zero
    cdef int32_t as_signed = <int32_t>bits.as_int
    return as_signed ^ ((as_signed >> 31) & 0x7fffffff)


# Bucket of a value: 0 for the largest, a later one for the smallest; never rises with the value.
cdef struct Spread:
    bint even
    float maximum
    float scale  # even
    int32_t key  # bit patterns
    int shift


cdef inline Spread spread_of(float least, float most, bint first_level) noexcept nogil:
    cdef Spread spread
    cdef float range_of_values = most - least, last = BUCKETS - 1
    cdef uint32_t keys = <uint32_t>ordered(most) - <uint32_t>ordered(least)
    spread.even = (
        first_level and range_of_values <= FLT_MAX and last / range_of_values <= FLT_MAX
    )
    spread.scale = last / range_of_values if spread.even else 0
    spread.maximum, spread.key, spread.shift = most, ordered(most), 0
    while (keys >> spread.shift) >= BUCKETS:
        spread.shift += 1
    return spread


cdef inline void buckets_of(Spread spread, const float *x, int32_t *buckets) noexcept nogil:
    cdef float maximum = spread.maximum, scale = spread.scale, last = BUCKETS - 1, place
    cdef uint32_t key = <uint32_t>spread.key
    cdef int i
    if spread.even:
        for i in range(16):
            place = (maximum - x[i]) * scale
            buckets[i] = <int32_t>(place if place < last else last)
    else:
        for i in range(16):
            buckets[i] = <int32_t>((key - <uint32_t>ordered(x[i])) >> spread.shift)


cdef inline void least_and_most(
    const float *x, int64_t n, float *least, float *most
) noexcept nogil:
    cdef float low[16]
    cdef float high[16]
    cdef float padded[16]
    cdef int64_t i
    cdef const float *at
    cdef int j
    for j in range(16):
        low[j] = high[j] = x[0]
    for i in range(0, n, 16):
        at = sixteen(x + i, n - i, x[0], padded)
        for j in range(16):
            low[j] = at[j] if at[j] < low[j] else low[j]
            high[j] = at[j] if at[j] > high[j] else high[j]
    least[0], most[0] = low[0], high[0]
    for j in range(1, 16):
        least[0] = min(least[0], low[j])
        most[0] = max(most[0], high[j])


cdef inline int32_t crossing(
    Active a, Spread spread, double *histogram, double goal, double *sum
) noexcept nogil:
    """Adds the weights up by bucket; returns the first bucket whose running sum, begun at `sum`,
    reaches `goal`, and leaves in `sum` what lies before it.  Rounding may keep the sum from its
    goal for ever: then it is the last bucket that holds anything."""
    cdef int32_t buckets[16]
    cdef float padded[16]
    cdef int64_t i
    cdef double here, before_last = sum[0], running = sum[0]
    cdef int32_t b, last = 0
    cdef const double *h
    cdef int j
    memset(histogram, 0, BUCKETS * COPIES * sizeof(double))
    for i in range(0, a.n, 16):
        buckets_of(spread, sixteen(a.values + i, a.n - i, a.values[i], padded), buckets)
        if a.n - i >= 16:
            for j in range(16):
                histogram[buckets[j] * COPIES + j % COPIES] += a.weights[i + j]
        else:
            for j in range(a.n - i):
                histogram[buckets[j] * COPIES + j % COPIES] += a.weights[i + j]
    for b in range(BUCKETS):
        h = histogram + b * COPIES
        here = (h[0] + h[1]) + (h[2] + h[3])
        if here <= 0:
            continue
        last, before_last = b, running
        running += here
        if running >= goal:
            break
    sum[0] = before_last
    return last


cdef inline void keep_bucket(Active *a, Spread spread, int32_t bucket) noexcept nogil:
    """Keeps the candidates of one bucket, in place and in order."""
    cdef float *values = a.values
    cdef float *weights = a.weights
    cdef float padded[16]
    cdef int32_t buckets[16]
    cdef int32_t wanted
    cdef int64_t i, found = 0
    cdef int j
    for i in range(0, a.n, 16):
        buckets_of(spread, sixteen(values + i, a.n - i, values[i], padded), buckets)
        wanted = 0
        for j in range(16):
            wanted |= buckets[j] == bucket
        if not wanted:
            continue
        for j in range(min(<int64_t>16, a.n - i)):
            values[found] = values[i + j]
            weights[found] = weights[i + j]
            found += buckets[j] == bucket
    a.n = found
