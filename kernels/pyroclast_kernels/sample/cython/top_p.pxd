# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Stages 11 and 12 together: top-p and the draw, in one pass over all logits where possible.
#
# The pass adds up all weights, and those above `upper` by blocks of 1024 tokens, and lists the
# tokens from `lower` to `upper`, among which the prefix must end:
#   lower   tokens below a weight of (1 - p) / n together weigh less than 1 - p of the total (which
#           is at least 1, the weight of the best), so the prefix ends before them;
#   upper   the top, for a row where few tokens carry the weight: the list is short then.  For a
#           flat row both come from a sample; if the sums show that it was wrong, the pass is
#           repeated with the bounds that cannot be.  If they are one value, the end lies among
#           equals, which need only be counted.
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, ceil
from libc.stdint cimport int32_t, int64_t

from pyroclast_kernels.activation.cython.lanes cimport choose, sum_lanes
from pyroclast_kernels.sample.cython.draw cimport draw, draw_from_blocks
from pyroclast_kernels.sample.cython.histogram cimport Active
from pyroclast_kernels.sample.cython.lanes cimport (
    ALL_TIES, BLOCK, AnyWeigher, Cut, Weigher, count_of, inside, logit_of, plain, sixteen, weigh,
    weigh_all,
)
from pyroclast_kernels.sample.cython.list cimport List, Scratch, first_equal
from pyroclast_kernels.sample.cython.select cimport LONG_LIST, Weights, bracket, select


cdef struct TopP:
    float lower
    float upper
    List list  # from lower to upper
    double total  # the weight of all tokens
    double above_upper
    double listed
    int64_t n_above
    int64_t n_blocks  # block_sums holds the sums of those above upper
    int64_t n_listed  # list.n, or the number of equals, which are not listed


# The lanes that a pass adds up in a block.
cdef struct Sums:
    float total[16]
    float above[16]
    float listed[16]


cdef inline int64_t append(
    List to, const float *logits, int64_t first_id, const int32_t *wanted
) noexcept nogil:
    """Appends those of 16 tokens that are wanted; returns how long the list is now."""
    cdef int j
    for j in range(16):
        to.logits[to.n] = logits[j]
        to.ids[to.n] = <int32_t>first_id + j
        to.n += wanted[j]
    return to.n


cdef inline int64_t add_block(
    TopP *t, const float *logits, int64_t begin, int64_t end, AnyWeigher weigher, float lowest,
    Sums *sums
) noexcept nogil:
    """The sums of one block; lists its tokens; returns how many are above `upper`."""
    cdef Sums s  # a local, which no store into the list makes the compiler load again
    cdef float weights[16]
    cdef float padded[16]
    cdef int32_t wanted[16]
    cdef int32_t n_above[16]
    cdef float lower = max(t.lower, lowest), upper = max(t.upper, lowest)
    cdef float zero = 0, minus_infinity = -INFINITY
    cdef int32_t n_wanted
    cdef int64_t i
    cdef const float *at
    cdef int j
    for j in range(16):
        s.total[j] = s.above[j] = s.listed[j] = 0
        n_above[j] = 0
    for i in range(begin, end, 16):
        at = sixteen(logits + i, end - i, minus_infinity, padded)
        n_wanted = 0
        for j in range(16):
            weights[j] = weigh(weigher, at[j])
            if AnyWeigher is Weigher:
                weights[j] = choose(at[j] >= lowest, weights[j], zero)
            s.total[j] += weights[j]
            s.above[j] += choose(at[j] > upper, weights[j], zero)
            n_above[j] += at[j] > upper
            wanted[j] = (at[j] >= lower) & (at[j] <= upper)
            n_wanted += wanted[j]
            s.listed[j] += choose(wanted[j], weights[j], zero)
        if n_wanted:
            t.n_listed += n_wanted
            if t.lower != t.upper:
                t.list.n = append(t.list, at, i, wanted)
    sums[0] = s
    return count_of(n_above, 16)


cdef inline void top_p_pass(
    TopP *t, const float *logits, int64_t n, Weigher weigher, float lowest, Scratch *s
) noexcept nogil:
    cdef Sums sums
    cdef float floor = -FLT_MAX
    cdef int64_t block, begin, end
    t.total = t.above_upper = t.listed = 0
    t.n_above = t.n_blocks = t.n_listed = t.list.n = 0
    for block in range((n + BLOCK - 1) // BLOCK):
        begin = block * BLOCK
        end = min(n, begin + BLOCK)
        if weigher.plain and lowest == floor and end - begin == BLOCK:
            t.n_above += add_block(t, logits, begin, end, plain(weigher), lowest, &sums)
        else:
            t.n_above += add_block(t, logits, begin, end, weigher, lowest, &sums)
        t.total += sum_lanes(sums.total)
        t.listed += sum_lanes(sums.listed)
        s.block_sums[t.n_blocks] = sum_lanes(sums.above)
        t.above_upper += s.block_sums[t.n_blocks]
        t.n_blocks += 1


cdef inline Cut top_p_cut(
    const TopP *t, Weigher weigher, double top_p, Scratch *s
) noexcept nogil:
    """The cut, within the list."""
    # The sums are known by now, and with them how much of the list is not needed.
    cdef double goal = top_p * t.total - t.above_upper, spare = 0.99 * (t.listed - goal)
    cdef float least = -FLT_MAX
    cdef float *values = s.select.values
    cdef const float *listed = t.list.logits
    cdef int64_t i, found = 0
    cdef Active active
    if spare > 0:
        least = <float>logit_of(weigher, spare / <double>t.list.n)
    for i in range(t.list.n):
        values[found] = listed[i]
        found += listed[i] >= least
    active.values, active.weights, active.n = values, s.select.weights, found
    return select(active, goal, weigh_all(weigher, values, found, active.weights), &s.select)


cdef inline int64_t add_to_blocks(
    const TopP *t, Weigher weigher, Cut cut, Scratch *s
) noexcept nogil:
    """Adds the listed tokens inside the cut to the blocks' sums; returns how many there are."""
    cdef float padded[16]
    cdef float weights[16]
    cdef int32_t wanted[16]
    cdef float minus_infinity = -INFINITY
    cdef Cut left = cut
    cdef int64_t i, n_kept = 0, block = 0, token_block, ties_left
    cdef bint tied
    cdef const float *at
    cdef int j
    s.block_ties[0] = cut.n_ties
    for i in range(0, t.list.n, 16):
        at = sixteen(t.list.logits + i, t.list.n - i, minus_infinity, padded)
        ties_left = left.n_ties
        n_kept += inside(&left, at, wanted)
        for j in range(16):
            weights[j] = weigh(weigher, at[j])
        for j in range(16):
            tied = at[j] == cut.value
            if not (wanted[j] or tied):
                continue
            token_block = t.list.ids[i + j] // BLOCK
            while block < token_block:
                block += 1
                s.block_ties[block] = ties_left
            if wanted[j]:
                s.block_sums[block] += weights[j]
                if tied and ties_left != ALL_TIES:
                    ties_left -= 1
    for block in range(block + 1, t.n_blocks):
        s.block_ties[block] = left.n_ties
    return n_kept


cdef inline bint bounds(
    TopP *t, const float *logits, int64_t n, Weigher weigher, float lowest, float floor,
    double top_p, Scratch *s
) noexcept nogil:
    """Chooses lower and upper; True if they come from a sample, which may be wrong."""
    cdef Weights of
    cdef bint sampled = False
    t.lower, t.upper = floor, FLT_MAX
    if n >= LONG_LIST:
        of.weights = NULL
        of.weigher, of.lowest = weigher, lowest
        sampled = bracket(logits, n, top_p, &s.select, of, &t.lower, &t.upper)
    t.lower = max(t.lower, floor)
    return sampled


cdef inline int64_t draw_top_p(
    const float *logits, int64_t n, Weigher weigher, float lowest, double top_p, double u,
    Scratch *s, int64_t *n_kept
) noexcept nogil:
    """Draws among the logits that are at least `lowest`, after top-p: an index into `logits`."""
    cdef float floor
    cdef double goal, needed
    cdef TopP t
    cdef Cut cut
    if top_p <= 0:
        n_kept[0] = 1
        return first_equal(logits, n, weigher.maximum)
    floor = <float>logit_of(weigher, 0.99 * (1 - top_p) / <double>n)
    t.list.ids, t.list.logits = s.top_ids, s.top_logits
    cdef bint sampled = bounds(&t, logits, n, weigher, lowest, floor, top_p, s)
    top_p_pass(&t, logits, n, weigher, lowest, s)
    goal = top_p * t.total
    if sampled and (t.above_upper >= goal or t.above_upper + t.listed < goal):
        t.lower, t.upper = floor, FLT_MAX
        top_p_pass(&t, logits, n, weigher, lowest, s)
    if t.lower == t.upper:
        needed = ceil((goal - t.above_upper) / (t.listed / <double>t.n_listed))
        cut.value, cut.n_ties = t.upper, ALL_TIES
        if needed < <double>t.n_listed:
            cut.n_ties = max(<int64_t>1, <int64_t>needed)
        return draw(logits, n, weigher, cut, u, s, n_kept)
    cut = top_p_cut(&t, weigher, top_p, s)
    if t.n_above == 0:
        return t.list.ids[draw(t.list.logits, t.list.n, weigher, cut, u, s, n_kept)]
    if t.list.n > LONG_LIST:
        return draw(logits, n, weigher, cut, u, s, n_kept)
    n_kept[0] = t.n_above + add_to_blocks(&t, weigher, cut, s)
    return draw_from_blocks(logits, n, weigher, cut, u, t.n_blocks, s)
