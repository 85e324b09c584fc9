# A block of activations in 8 bits, as pyroclast_kernels/q8_blocks.py lays it out.
cdef struct Q8Block:
    float scale
    float sum_scaled
    int32_t minus_8_sum
    int32_t minus_128_sum
    int8_t values[32]
    float half_scaled[2]
    int32_t minus_4_half_sum[2]


cdef int best_level(const float *y, float largest) noexcept nogil:
    """Which of the levels that q8_blocks.py explains loses least; `largest` is the largest |y|."""
    cdef float most = 1.298074214633707e33, first = 127, steps = 256  # 2^110
    cdef float in_256ths = first / largest, least = 0, loss
    cdef int level, factor, word, rest, total, i, best = 127
    if in_256ths > most:
        in_256ths = most
    in_256ths = in_256ths * steps
    for level in range(127, 115, -2):
        factor = (((level << 16) // 127) + 1) // 2
        total = 0
        for i in range(32):
            word = <int>rintf(y[i] * in_256ths) if isfinite(y[i]) else 0
            rest = <int8_t>((word * factor + (1 << 14)) >> 15)
            total += rest * rest
        loss = <float>total * (first * first / <float>(level * level))
        if level == 127 or loss < least:
            best, least = level, loss
    return best


cdef void quantize_block(const float *y, Q8Block *out) noexcept nogil:
    cdef float largest = 0, inverse = 0, level
    cdef bint finite = True
    cdef int i, q
    cdef int sums[2]
    for i in range(32):
        if not isfinite(y[i]):
            finite = False
        elif fabsf(y[i]) > largest:
            largest = fabsf(y[i])
    level = <float>best_level(y, largest)
    if isfinite(level / largest):  # not of zeros
        inverse = level / largest
    sums[0] = sums[1] = 0
    for i in range(32):
        q = <int>rintf(y[i] * inverse) if isfinite(y[i]) else 0
        out.values[i] = <int8_t>q
        sums[i // 16] += q
    out.scale = largest / level if finite else NAN
    out.sum_scaled = out.scale * <float>(sums[0] + sums[1])
    out.minus_8_sum = -8 * (sums[0] + sums[1])
    out.minus_128_sum = -128 * (sums[0] + sums[1])
    for i in range(2):
        out.half_scaled[i] = out.scale * <float>sums[i]
        out.minus_4_half_sum[i] = -4 * sums[i]
