# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# The arguments of the op: mirrors of the dtypes in __init__.py.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef struct Row:
    double temperature
    double top_p
    double min_p
    double typical_p
    double top_n_sigma
    double repetition_penalty
    double presence_penalty
    double frequency_penalty
    int64_t top_k
    uint64_t seed
    uint64_t position
    uint64_t completion
    int64_t penalty_start
    int64_t n_penalties
    int64_t bias_start
    int64_t n_biases
    int64_t allowed_start
    int64_t n_top
    int64_t target
    int64_t want_logprob


cdef struct Penalty:
    int32_t token_id
    int32_t n_prompt
    int32_t n_output


cdef struct Bias:
    int32_t token_id
    float bias


cdef struct Out:
    int32_t token_id
    int32_t status
    int32_t n_kept
    int32_t rank
    int32_t is_greedy
    float logprob


cdef struct SampleArgs:
    const float *logits
    const int64_t *n_rows
    const Row *rows
    const Penalty *penalties
    const Bias *biases
    const uint32_t *allowed
    Out *out
    int32_t *top_ids
    float *top_logprobs
    uint8_t *scratch
    int64_t vocab_size
    int64_t logits_stride
    int64_t max_top
    int64_t scratch_stride
