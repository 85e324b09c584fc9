# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""sample in Cython: the next token of every row, float32 weights and float64 sums of blocks.

See reference.py for the stages and cpp/sample.cpp for the method: the maximum first; top-k and
typical-p leave a short list (list.pxd, select.pxd), top-p cuts and draws in one pass (top_p.pxd), the draw
adds weights up by blocks and walks one of them (draw.pxd).  Nothing sorts the vocabulary.
A part handles whole rows, so bits do not depend on n_parts.
"""

from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, NAN, log, nextafterf
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pyroclast_kernels.activation.cython.lanes cimport choose
from pyroclast_kernels.native.abi cimport Range, split
from pyroclast_kernels.sample.cython.draw cimport draw
from pyroclast_kernels.sample.cython.histogram cimport ordered
from pyroclast_kernels.sample.cython.lanes cimport (
    ALL_TIES, Cut, Extremes, Weigher, sum_weights, weigher_of,
)
from pyroclast_kernels.sample.cython.list cimport (
    List, Scratch, bound_of_kth, count_above, cut_typical, deviation, first_equal, gather, keep,
    lay_out, scan,
)
from pyroclast_kernels.sample.cython.philox cimport uniform
from pyroclast_kernels.sample.cython.rows cimport Bias, Out, Penalty, Row, SampleArgs
from pyroclast_kernels.sample.cython.select cimport select_count, sort
from pyroclast_kernels.sample.cython.top_p cimport draw_top_p

cdef enum:
    OK = 0
    NOT_FINITE = 1
    NOTHING_ALLOWED = 2


# ---- stages 2 to 4 ----------------------------------------------------------------------------


cdef float clip(double x) noexcept nogil:
    if x == -INFINITY:
        return -INFINITY
    return <float>min(max(x, <double>-FLT_MAX), <double>FLT_MAX)


cdef void mask_tokens(float *z, const uint32_t *allowed, int64_t n) noexcept nogil:
    cdef float minus_infinity = -INFINITY
    cdef uint32_t word
    cdef int64_t i
    cdef int j
    for i in range(0, n, 32):  # z is padded
        word = allowed[i // 32]
        for j in range(32):
            z[i + j] = choose((word >> j) & 1, z[i + j], minus_infinity)


cdef void adjust(
    const SampleArgs *a, const Row *row, const float *logits, float *z
) noexcept nogil:
    """Biases, penalties and the mask, on a copy."""
    cdef const Bias *bias
    cdef const Penalty *penalty
    cdef double x
    cdef int64_t i
    memcpy(z, logits, a.vocab_size * sizeof(float))
    for i in range(row.n_biases):
        bias = a.biases + row.bias_start + i
        z[bias.token_id] = clip(<double>z[bias.token_id] + <double>bias.bias)
    for i in range(row.n_penalties):
        penalty = a.penalties + row.penalty_start + i
        x = z[penalty.token_id]
        if penalty.n_prompt > 0 or penalty.n_output > 0:
            x = x / row.repetition_penalty if x > 0 else x * row.repetition_penalty
        x -= row.frequency_penalty * penalty.n_output
        if penalty.n_output > 0:
            x -= row.presence_penalty
        z[penalty.token_id] = clip(x)
    if row.allowed_start >= 0:
        mask_tokens(z, a.allowed + row.allowed_start, a.vocab_size)


# ---- stages 5 to 12 ---------------------------------------------------------------------------


cdef float at_least_float(double x) noexcept nogil:
    """The smallest float that is at least x, and never -inf."""
    if x <= <double>-FLT_MAX:
        return -FLT_MAX
    cdef float f = <float>x
    return nextafterf(f, INFINITY) if <double>f < x else f


cdef float threshold(const Row *row, const float *z, int64_t n, float maximum) noexcept nogil:
    """The logit below which top_n_sigma or min_p cuts; -FLT_MAX keeps all but -inf."""
    cdef double lowest = -INFINITY
    if row.top_n_sigma > 0:
        lowest = maximum - row.top_n_sigma * deviation(z, n, maximum)
    if row.min_p > 0:
        lowest = max(lowest, maximum + row.temperature * log(row.min_p))
    return at_least_float(lowest)


cdef void cut_list(
    const Row *row, const float *z, int64_t n, float lowest, Weigher *weigher, List *to, Scratch *s
) noexcept nogil:
    """Stages 9 and 10: the tokens that top_k and typical_p leave of those from `lowest` on."""
    cdef Extremes extremes
    cdef bint cuts_k = 0 < row.top_k < n
    if cuts_k:
        lowest = max(lowest, bound_of_kth(z, n, row.top_k, s.groups, s))
    gather(to, z, n, lowest)
    if cuts_k and to.n > row.top_k:
        keep(to, to.logits, select_count(to.logits, to.n, row.top_k, &s.select))
    if row.typical_p < 1:
        cut_typical(to, row.typical_p, weigher[0], s)
        # The best logits may be gone: weigh by the best one left, so that not all weigh 0.
        scan(to.logits, to.n, s.groups, &extremes)
        weigher[0] = weigher_of(extremes, row.temperature)


cdef int32_t choose_token(
    const Row *row, const float *z, int64_t n, Extremes extremes, Scratch *s, int32_t *n_kept
) noexcept nogil:
    """Stages 5 to 12 on adjusted logits, one of them finite."""
    cdef Weigher weigher
    cdef Cut cut
    cdef List left
    cdef double u
    cdef int64_t index, n_drawable
    n_kept[0] = 1
    if row.temperature < 1e-5:
        return <int32_t>first_equal(z, n, extremes.maximum)
    weigher = weigher_of(extremes, row.temperature)
    cut.value, cut.n_ties = threshold(row, z, n, extremes.maximum), ALL_TIES
    left.ids, left.logits, left.n = s.ids, s.logits, 0
    if 0 < row.top_k < n or row.typical_p < 1:
        cut_list(row, z, n, cut.value, &weigher, &left, s)
        z, n, cut.value = left.logits, left.n, -FLT_MAX
    u = uniform(row.seed, row.position, row.completion)
    if row.top_p < 1:
        index = draw_top_p(z, n, weigher, cut.value, row.top_p, u, s, &n_drawable)
    else:
        index = draw(z, n, weigher, cut, u, s, &n_drawable)
    n_kept[0] = <int32_t>n_drawable
    return left.ids[index] if z == left.logits else <int32_t>index


# ---- reports ----------------------------------------------------------------------------------


cdef void report_top(
    const Row *row, const float *logits, int64_t n, double log_total,
    int32_t *ids, float *logprobs, Scratch *s
) noexcept nogil:
    """The n_top most likely tokens: those that may be, cut to as many, and only these sorted."""
    cdef uint64_t *order = <uint64_t *>s.adjusted  # and the `logits` behind: not used any more
    cdef Extremes extremes
    cdef List left
    cdef uint32_t falling
    cdef int64_t i
    left.ids, left.logits, left.n = s.top_ids, s.top_logits, 0
    scan(logits, n, s.groups, &extremes)  # its groups may be those of other logits by now
    gather(&left, logits, n, bound_of_kth(logits, n, row.n_top, s.groups, s))
    if left.n > row.n_top:
        keep(&left, left.logits, select_count(left.logits, left.n, row.n_top, &s.select))
    for i in range(left.n):
        falling = <uint32_t>0x7fffffff - <uint32_t>ordered(left.logits[i])
        order[i] = <uint64_t>falling << 32 | <uint64_t>left.ids[i]
    sort(order, order + left.n)
    for i in range(left.n):
        ids[i] = <int32_t>order[i]
        logprobs[i] = <float>(<double>logits[ids[i]] - extremes.maximum - log_total)
    for i in range(left.n, row.n_top):
        ids[i], logprobs[i] = -1, -INFINITY


cdef void report(
    const SampleArgs *a, int64_t r, const float *logits, Extremes extremes, Scratch *s
) noexcept nogil:
    """What is asked of the token that is chosen and of the most likely ones."""
    cdef const Row *row = a.rows + r
    cdef Out *out = a.out + r
    cdef int64_t n = a.vocab_size
    cdef float chosen, maximum = extremes.maximum
    cdef double log_total
    if not row.want_logprob and not row.n_top:
        return
    log_total = log(sum_weights(logits, n, weigher_of(extremes, 1)))
    if row.want_logprob:
        chosen = logits[out.token_id]
        out.logprob = <float>(<double>chosen - maximum - log_total)
        out.rank = <int32_t>(1 + count_above(logits, n, chosen))
        out.is_greedy = (
            chosen == maximum and first_equal(logits, n, maximum) == out.token_id
        )
    if row.n_top:
        report_top(
            row, logits, n, log_total,
            a.top_ids + r * a.max_top, a.top_logprobs + r * a.max_top, s,
        )


# ---- rows -------------------------------------------------------------------------------------


cdef void sample_row(const SampleArgs *a, int64_t r, Scratch *s) noexcept nogil:
    cdef const Row *row = a.rows + r
    cdef const float *logits = a.logits + r * a.logits_stride
    cdef const float *z = logits
    cdef Out *out = a.out + r
    cdef Extremes extremes, z_extremes
    out.token_id, out.status, out.n_kept, out.rank = -1, OK, 0, 0
    out.is_greedy, out.logprob = 0, NAN
    if not scan(logits, a.vocab_size, s.groups, &extremes) or extremes.maximum == INFINITY:
        out.status = NOT_FINITE
        return
    z_extremes = extremes
    if row.target < 0 and (row.n_biases or row.n_penalties or row.allowed_start >= 0):
        adjust(a, row, logits, s.adjusted)
        z = s.adjusted
        scan(z, a.vocab_size, s.groups, &z_extremes)
    if extremes.maximum == -INFINITY or z_extremes.maximum == -INFINITY:
        out.status = NOTHING_ALLOWED
        return
    if row.target >= 0:
        out.token_id = <int32_t>row.target
    else:
        out.token_id = choose_token(row, z, a.vocab_size, z_extremes, s, &out.n_kept)
    report(a, r, logits, extremes, s)


cdef void sample(const void *args, int part, int n_parts) noexcept nogil:
    cdef const SampleArgs *a = <const SampleArgs *>args
    cdef Range mine = split(a.n_rows[0], part, n_parts)
    cdef Scratch scratch
    cdef int64_t r
    lay_out(&scratch, a.scratch + part * a.scratch_stride, a.vocab_size)
    for r in range(mine.begin, mine.end):
        sample_row(a, r, &scratch)


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {"sample.f32": <size_t>&sample}
