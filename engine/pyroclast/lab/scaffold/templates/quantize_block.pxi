# A block of activations in 8 bits, as pyroclast_kernels/q8_blocks.py lays it out.
cdef struct Q8Block:
    float scale
    float sum_scaled
    int32_t minus_8_sum
    int32_t minus_128_sum
    int8_t values[32]
    float half_scaled[2]
    int32_t minus_4_half_sum[2]


cdef void quantize_block(const float *y, Q8Block *out) noexcept nogil:
    cdef float largest = 0, inverse = 0, most = 127
    cdef bint finite = True
    cdef int i, q
    cdef int sums[2]
    for i in range(32):
        if not isfinite(y[i]):
            finite = False
        elif fabsf(y[i]) > largest:
            largest = fabsf(y[i])
    if largest > 0:
        inverse = most / largest
    sums[0] = sums[1] = 0
    for i in range(32):
        q = <int>rintf(y[i] * inverse) if isfinite(y[i]) else 0
        out.values[i] = <int8_t>q
        sums[i // 16] += q
    out.scale = largest / most if finite else NAN
    out.sum_scaled = out.scale * <float>(sums[0] + sums[1])
    out.minus_8_sum = -8 * (sums[0] + sums[1])
    out.minus_128_sum = -128 * (sums[0] + sums[1])
    for i in range(2):
        out.half_scaled[i] = out.scale * <float>sums[i]
        out.minus_4_half_sum[i] = -4 * sums[i]
