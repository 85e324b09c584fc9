// sample: the next token of every row.  reference.py defines the stages; this is how they are done.
//
// 1. Scan: the extremes, and whether there is a NaN.  Logits are copied only if a bias, penalty or
//    mask changes them.
// 2. top-k and typical-p leave a list (ids, logits), usually short.  top-k first finds a lower
//    bound of the k-th logit from the maxima of many small groups, so little more than k tokens are
//    gathered; select.h then finds the exact cut.
// 3. top-p: one pass for the sum of the weights and for the tokens among which the prefix may end,
//    then select.h on these: see top_p.h.
// 4. Draw: one pass adds the weights inside the cut up by blocks of 1024 tokens; the random number
//    picks a block, and only that block is walked.
// A row that wants only a draw from all tokens skips step 1: sample_at_once.
// Weights are float32 in 16 lanes, recomputed where they are needed (an exponential costs less than
// a store and a load beyond the L1 cache); the sums of blocks are float64.  A part handles whole
// rows, so bits do not depend on n_parts.
#include <algorithm>
#include <cmath>

#include "list.h"
#include "native/abi.h"
#include "philox.h"
#include "top_p.h"

namespace sampling {
namespace {

// Mirrors of the dtypes in __init__.py.
struct Row {
  double temperature, top_p, min_p, typical_p, top_n_sigma;
  double repetition_penalty, presence_penalty, frequency_penalty;
  int64_t top_k;
  uint64_t seed, position, completion;
  int64_t penalty_start, n_penalties, bias_start, n_biases, allowed_start;
  int64_t n_top, target, want_logprob;
};
struct Penalty {
  int32_t token_id, n_prompt, n_output;
};
struct Bias {
  int32_t token_id;
  float bias;
};
struct Out {
  int32_t token_id, status, n_kept, rank, is_greedy;
  float logprob;
};
static_assert(sizeof(Row) == 160 && sizeof(Penalty) == 12 && sizeof(Bias) == 8 && sizeof(Out) == 24,
              "__init__.py mirrors these structs");

struct SampleArgs {
  const float *logits;
  const int64_t *n_rows;
  const Row *rows;
  const Penalty *penalties;
  const Bias *biases;
  const uint32_t *allowed;
  Out *out;
  int32_t *top_ids;
  float *top_logprobs;
  uint8_t *scratch;
  int64_t vocab_size;
  int64_t logits_stride;
  int64_t max_top;
  int64_t scratch_stride;
};

constexpr int32_t kOk = 0, kNotFinite = 1, kNothingAllowed = 2;
constexpr double kMinTemperature = 1e-5;

float clip(double x) {
  if (x == -INFINITY) return -INFINITY;
  return float(std::min(std::max(x, -double(FLT_MAX)), double(FLT_MAX)));
}

void mask_tokens(float *z, const uint32_t *allowed, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    Mask m = allowed[i / 32] >> (i % 32) & kAllLanes;
    store(z + i, blend(m, load(z + i), set1(-INFINITY)));  // z is padded
  }
}

// Stages 2 to 4: biases, penalties and the mask, on a copy.
void adjust(const SampleArgs &a, const Row &row, const float *logits, float *z) {
  std::memcpy(z, logits, size_t(a.vocab_size) * sizeof(float));
  const Bias *bias = a.biases + row.bias_start;
  for (int64_t i = 0; i < row.n_biases; i++) {
    float &x = z[bias[i].token_id];
    x = clip(double(x) + double(bias[i].bias));
  }
  const Penalty *penalty = a.penalties + row.penalty_start;
  for (int64_t i = 0; i < row.n_penalties; i++) {
    const Penalty &p = penalty[i];
    double x = z[p.token_id];
    if (p.n_prompt > 0 || p.n_output > 0)
      x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    x -= row.frequency_penalty * p.n_output;
    if (p.n_output > 0) x -= row.presence_penalty;
    z[p.token_id] = clip(x);
  }
  if (row.allowed_start >= 0) mask_tokens(z, a.allowed + row.allowed_start, a.vocab_size);
}

// The smallest float that is at least x, and never -inf.
float at_least_float(double x) {
  if (x <= -double(FLT_MAX)) return -FLT_MAX;
  float f = float(x);
  return double(f) < x ? std::nextafterf(f, INFINITY) : f;
}

// The logit below which top_n_sigma or min_p cuts; -FLT_MAX keeps all but -inf.
float threshold(const Row &row, const float *z, int64_t n, float maximum) {
  double lowest = -INFINITY;
  if (row.top_n_sigma > 0) lowest = maximum - row.top_n_sigma * deviation(z, n, maximum);
  if (row.min_p > 0) lowest = std::max(lowest, maximum + row.temperature * std::log(row.min_p));
  return at_least_float(lowest);
}

// Stages 5 to 12 on adjusted logits, one of them finite.
int32_t choose(const Row &row, const float *z, int64_t n, Extremes extremes, Scratch &s,
               int32_t &n_kept) {
  const float maximum = extremes.maximum;
  n_kept = 1;
  if (row.temperature < kMinTemperature) return int32_t(first_equal(z, n, maximum));
  Weigher weigher(extremes, row.temperature);
  Cut cut{threshold(row, z, n, maximum), kAllTies};
  List list{s.ids, s.logits, 0};
  const bool cuts_k = row.top_k > 0 && row.top_k < n;
  const bool cuts_typical = row.typical_p < 1;
  if (cuts_k || cuts_typical) {
    float lowest = cut.value;
    if (cuts_k) lowest = std::max(lowest, bound_of_kth(z, n, row.top_k, s.groups, s));
    gather(list, z, n, lowest);
    if (cuts_k && list.n > row.top_k)
      keep(list, list.logits, select_count(list.logits, list.n, row.top_k, s.select));
    if (cuts_typical) {
      cut_typical(list, row.typical_p, weigher, s);
      // The best logits may be gone: weigh by the best one left, so that not all weigh 0.
      scan(list.logits, list.n, s.groups, extremes);
      weigher = Weigher(extremes, row.temperature);
    }
    z = list.logits;
    n = list.n;
    cut.value = -FLT_MAX;
  }
  double u = uniform(row.seed, row.position, row.completion);
  int64_t n_drawable, index;
  if (row.top_p < 1)
    index = draw_top_p(z, n, weigher, cut.value, row.top_p, u, s, n_drawable);
  else
    index = draw(z, n, weigher, cut, u, s, n_drawable);
  n_kept = int32_t(n_drawable);
  return z == list.logits ? list.ids[index] : int32_t(index);
}

void report_top(const Row &row, const float *logits, int64_t n, double log_total, int32_t *ids,
                float *logprobs, Scratch &s) {
  List list{s.ids, s.logits, 0};
  Extremes extremes;
  scan(logits, n, s.groups, extremes);  // its groups may be those of other logits by now
  gather(list, logits, n, bound_of_kth(logits, n, row.n_top, s.groups, s));
  int64_t n_top = std::min(row.n_top, list.n);
  std::fill(ids + n_top, ids + row.n_top, -1);
  std::fill(logprobs + n_top, logprobs + row.n_top, -INFINITY);
  std::partial_sort_copy(list.ids, list.ids + list.n, ids, ids + n_top, [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  for (int64_t i = 0; i < n_top; i++)
    logprobs[i] = float(double(logits[ids[i]]) - extremes.maximum - log_total);
}

// Whether a row wants nothing but a draw from all tokens.
bool only_draws(const Row &row) {
  bool cuts =
      row.top_k > 0 || row.top_p < 1 || row.min_p > 0 || row.typical_p < 1 || row.top_n_sigma > 0;
  bool adjusts = row.n_biases || row.n_penalties || row.allowed_start >= 0;
  bool reports = row.want_logprob || row.n_top || row.target >= 0;
  return row.temperature >= kMinTemperature && !cuts && !adjusts && !reports;
}

// A row that wants nothing but a draw from all tokens needs no scan, unless a weight underflows:
// then false.
bool sample_at_once(const Row &row, const float *logits, int64_t n, Out &out, Scratch &s) {
  if (n < kLongList || !only_draws(row)) return false;
  const Weigher weigher({0.0f, 0.0f}, row.temperature);
  int64_t index;
  double u = uniform(row.seed, row.position, row.completion);
  if (!draw_at_once(logits, n, weigher, u, s, index)) return false;
  out.token_id = int32_t(index);
  out.n_kept = int32_t(n);
  return true;
}

void sample_row(const SampleArgs &a, int64_t r, Scratch &s) {
  const Row &row = a.rows[r];
  const float *logits = a.logits + r * a.logits_stride;
  const int64_t n = a.vocab_size;
  Out &out = a.out[r];
  out = {-1, kOk, 0, 0, 0, NAN};
  if (sample_at_once(row, logits, n, out, s)) return;
  Extremes extremes;
  if (!scan(logits, n, s.groups, extremes) || extremes.maximum == INFINITY) {
    out.status = kNotFinite;
    return;
  }
  const float maximum = extremes.maximum;
  if (maximum == -INFINITY) {
    out.status = kNothingAllowed;
    return;
  }
  if (row.target >= 0) {
    out.token_id = int32_t(row.target);
  } else {
    const float *z = logits;
    Extremes z_extremes = extremes;
    if (row.n_biases || row.n_penalties || row.allowed_start >= 0) {
      adjust(a, row, logits, s.adjusted);
      z = s.adjusted;
      scan(z, n, s.groups, z_extremes);
      if (z_extremes.maximum == -INFINITY) {
        out.status = kNothingAllowed;
        return;
      }
    }
    out.token_id = choose(row, z, n, z_extremes, s, out.n_kept);
  }
  if (!row.want_logprob && !row.n_top) return;
  double log_total = std::log(sum_weights(logits, n, Weigher(extremes, 1.0)));
  if (row.want_logprob) {
    float chosen = logits[out.token_id];
    out.logprob = float(double(chosen) - maximum - log_total);
    out.rank = int32_t(1 + count_above(logits, n, chosen));
    out.is_greedy = chosen == maximum && first_equal(logits, n, maximum) == out.token_id;
  }
  if (row.n_top)
    report_top(row, logits, n, log_total, a.top_ids + r * a.max_top, a.top_logprobs + r * a.max_top,
               s);
}

void sample(const void *args, int part, int n_parts) {
  const SampleArgs &a = *static_cast<const SampleArgs *>(args);
  Scratch scratch(a.scratch + part * a.scratch_stride, a.vocab_size);
  Range rows = split(*a.n_rows, part, n_parts);
  for (int64_t r = rows.begin; r < rows.end; r++) sample_row(a, r, scratch);
}

}  // namespace
}  // namespace sampling

PYRO_KERNEL("sample.f32", sampling::sample);
