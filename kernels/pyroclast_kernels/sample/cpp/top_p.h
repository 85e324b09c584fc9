// Stages 11 and 12 together: top-p and the draw, in one pass over all logits where possible.
//
// The pass adds up all weights, and those above `upper` by blocks of 1024 tokens, and lists the
// tokens from `lower` to `upper`, among which the prefix must end:
//   lower   tokens below a weight of (1 - p) / n together weigh less than 1 - p of the total (which
//           is at least 1, the weight of the best), so the prefix ends before them;
//   upper   the top, for a row where few tokens carry the weight: the list is short then.  For a
//           flat row both come from a sample; if the sums show that it was wrong, the pass is
//           repeated with the bounds that cannot be.  If they are one value, the end lies among
//           equals, which need only be counted.
#pragma once

#include "list.h"

namespace sampling {

struct TopP {
  float lower, upper;
  List list;                          // from lower to upper
  double total, above_upper, listed;  // weights of all tokens, of those above upper, of the list
  int64_t n_above, n_blocks;          // block_sums holds the sums of those above upper
  int64_t n_listed;                   // list.n, or the number of equals, which are not listed
};

// kPlain: no logit is below `lowest`, and no weight underflows.
template <bool kPlain>
void top_p_pass(TopP &t, const float *logits, int64_t n, const Weigher &weigher, float lowest,
                Scratch &s) {
  // Locals, so that no store into the list makes the compiler load them again.
  const Weigher weigh = weigher;
  List list{t.list.ids, t.list.logits, 0};
  double total = 0.0, above_upper = 0.0, listed = 0.0;
  int64_t n_above = 0, n_blocks = 0, n_listed = 0;
  const bool equals = t.lower == t.upper;
  const f32x16 least = set1(lowest), lo = set1(std::max(t.lower, lowest));
  const f32x16 hi = set1(std::max(t.upper, lowest));
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int64_t end = std::min(n, begin + kBlock);
    f32x16 all = set1(0.0f), beyond = all, within = all;
    for (int64_t i = begin; i < end; i += kLanes) {
      f32x16 x, w;
      if (kPlain && i + kLanes <= end) {
        x = load(logits + i);
        w = PlainWeigher(weigh)(x);
      } else {
        x = load_n(logits + i, end - i, -INFINITY);
        w = where_at_least(x, least, weigh(x));
      }
      all = all + w;
      Mask over = above(x, hi), inside = at_least(x, lo) & ~over;
      beyond = beyond + blend(over, w, set1(0.0f));
      n_above += count(over);
      if (!inside) continue;
      within = within + blend(inside, w, set1(0.0f));
      n_listed += count(inside);
      if (equals) continue;
      compress(list.logits + list.n, x, inside);
      compress(list.ids + list.n, lane_ids(int32_t(i)), inside);
      list.n += count(inside);
    }
    total += reduce_add(all);
    listed += reduce_add(within);
    above_upper += s.block_sums[n_blocks++] = reduce_add(beyond);
  }
  t = {t.lower, t.upper, list, total, above_upper, listed, n_above, n_blocks, n_listed};
}

// The cut, within the list.
inline Cut top_p_cut(const TopP &t, const Weigher &weigher, double top_p, Scratch &s) {
  // The sums are known by now, and with them how much of the list is not needed.
  double goal = top_p * t.total - t.above_upper, spare = 0.99 * (t.listed - goal);
  f32x16 least = set1(-FLT_MAX);
  if (spare > 0.0) least = set1(float(weigher.inverse(spare / double(t.list.n))));
  Active active{s.select.values, s.select.weights, 0};
  for (int64_t i = 0; i < t.list.n; i += kLanes) {
    f32x16 x = load_n(t.list.logits + i, t.list.n - i, -INFINITY);
    Mask m = at_least(x, least);
    if (!m) continue;
    compress(active.values + active.n, x, m);
    active.n += count(m);
  }
  double candidates = weigher.weigh(active.values, active.n, active.weights);
  return select(active, goal, candidates, s.select);
}

// Adds the listed tokens inside the cut to the blocks' sums; returns how many there are.
inline int64_t add_to_blocks(const TopP &t, const Weigher &weigher, Cut cut, Scratch &s) {
  Inside inside(cut);
  int64_t n_kept = 0, block = 0;
  s.block_ties[0] = cut.n_ties;
  float weights[kLanes];
  for (int64_t i = 0; i < t.list.n; i += kLanes) {
    f32x16 x = load_n(t.list.logits + i, t.list.n - i, -INFINITY);
    int64_t ties_left = inside.ties_left;
    Mask m = inside(x), tied = equal(x, set1(cut.value));
    n_kept += count(m);
    store(weights, weigher(x));
    for (Mask left = m | tied; left; left &= left - 1) {
      int lane = __builtin_ctz(left);
      int64_t token_block = t.list.ids[i + lane] / kBlock;
      while (block < token_block) s.block_ties[++block] = ties_left;
      if (m >> lane & 1) s.block_sums[block] += weights[lane];
      if (ties_left != kAllTies && (m & tied) >> lane & 1) ties_left--;
    }
  }
  while (++block < t.n_blocks) s.block_ties[block] = inside.ties_left;
  return n_kept;
}

// Draws among the logits that are at least `lowest`, after top-p: an index into `logits`.
inline int64_t draw_top_p(const float *logits, int64_t n, const Weigher &weigher, float lowest,
                          double top_p, double u, Scratch &s, int64_t &n_kept) {
  if (top_p <= 0.0) {
    n_kept = 1;
    return first_equal(logits, n, weigher.maximum);
  }
  const float floor = float(weigher.inverse(0.99 * (1.0 - top_p) / double(n)));
  TopP t{floor, FLT_MAX, {s.top_ids, s.top_logits, 0}, 0.0, 0.0, 0.0, 0, 0, 0};
  auto weigh = [&](f32x16 x, int64_t) { return where_at_least(x, set1(lowest), weigher(x)); };
  bool sampled = n >= kLongList && bracket(logits, n, top_p, s.select, weigh, t.lower, t.upper);
  t.lower = std::max(t.lower, floor);
  const auto pass = weigher.plain && lowest == -FLT_MAX ? top_p_pass<true> : top_p_pass<false>;
  pass(t, logits, n, weigher, lowest, s);
  double goal = top_p * t.total;
  if (sampled && (t.above_upper >= goal || t.above_upper + t.listed < goal)) {
    t.lower = floor;
    t.upper = FLT_MAX;
    pass(t, logits, n, weigher, lowest, s);
  }
  if (t.lower == t.upper) {
    double needed = std::ceil((goal - t.above_upper) / (t.listed / double(t.n_listed)));
    int64_t n_ties = needed < double(t.n_listed) ? std::max<int64_t>(1, int64_t(needed)) : kAllTies;
    return draw(logits, n, weigher, {t.upper, n_ties}, u, s, n_kept);
  }
  Cut cut = top_p_cut(t, weigher, top_p, s);
  if (t.n_above == 0) return t.list.ids[draw(t.list.logits, t.list.n, weigher, cut, u, s, n_kept)];
  if (t.list.n > kLongList) return draw(logits, n, weigher, cut, u, s, n_kept);
  n_kept = t.n_above + add_to_blocks(t, weigher, cut, s);
  return draw_from_blocks(logits, n, weigher, cut, u, t.n_blocks, s);
}

}  // namespace sampling
