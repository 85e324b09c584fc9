// Causal attention of a ragged batch over the paged cache.  See reference.py for the contract,
// cache.py for the layouts, tile.h for the inner loops.
//
// A query's context is processed in splits of kSplit positions, cut at multiples of kSplit whatever
// the batch: maximum, exponentials, their sum and the weighted values of a split, then the merge of
// the splits from left to right.  So the bits depend on the sequence alone.
//
// Many tokens: an item is (tile of queries, kv head) and merges its splits as it goes.  Few tokens:
// an item is (tile, kv head, split); whoever finishes the last split of a tile merges it.
#include "native/scratch.h"
#include "splits.h"

namespace {

struct AttentionArgs {
  const int64_t *n_tokens;
  const int64_t *n_seqs;
  const int32_t *seq_starts;
  const int32_t *positions;
  const int32_t *block_tables;
  const float *qkv;
  const void *k_cache;
  const void *v_cache;
  float *out;
  Q8Block *out_q8;
  float *scratch;
  int32_t *counters;
  int64_t n_heads;
  int64_t n_kv_heads;
  int64_t head_dim;
  int64_t block_size;
  int64_t max_blocks;
  int64_t value_stride;
  int64_t window;
  double scale;
  double softcap;
  const float *sinks;
  int64_t max_splits;
  int64_t max_split_tokens;
};

// Which queries a tile holds: tokens [token, token + n_tokens) of sequence `seq`, query heads
// [head, head + n_heads) of each of the kv heads [kv_head, kv_head + n_kv_heads); and the splits
// that they see.
struct Item {
  int64_t seq, token, n_tokens;
  int64_t kv_head, n_kv_heads, head, n_heads;
  int64_t first_split, n_splits;
};

Row make_row(const AttentionArgs &a, int64_t token, int64_t q_head) {
  const int64_t stride = (a.n_heads + 2 * a.n_kv_heads) * a.head_dim, end = a.positions[token] + 1;
  const int64_t first = a.window > 0 ? std::max<int64_t>(0, end - a.window) : 0;
  const float *q = a.qkv + token * stride + q_head * a.head_dim;
  return {q, token, q_head, first, end, -INFINITY, 0, 0, 0};
}

template <class Format>
Cache<Format> start_tile(const AttentionArgs &a, Tile &tile, const Item &item) {
  const int64_t group = a.n_heads / a.n_kv_heads;
  tile.n_groups = 0;
  for (int64_t kv = item.kv_head; kv < item.kv_head + item.n_kv_heads; kv++) {
    int n = kGroup;  // rows of the group at hand
    for (int64_t t = item.token; t < item.token + item.n_tokens; t++)
      for (int64_t h = item.head; h < item.head + item.n_heads; h++) {
        if (n == kGroup) {
          tile.kv_heads[tile.n_groups++] = kv;
          n = 0;
        }
        const int g = tile.n_groups - 1;
        tile.rows[g * kGroup + n++] = make_row(a, t, kv * group + h);
        tile.n_rows[g] = n;
      }
  }
  gather_queries<typename Format::Source>(tile, a.head_dim, {a.scale, a.softcap});
  return {static_cast<const uint8_t *>(a.k_cache),
          static_cast<const uint8_t *>(a.v_cache),
          a.block_tables + item.seq * a.max_blocks,
          a.n_kv_heads,
          a.head_dim,
          a.value_stride};
}

// One split of the tile; f(row number, its values) for each row.
template <class Format, class Function>
void run_split(Split<Format> split, Tile &tile, const Item &item, Function f) {
  const int step = item.n_kv_heads > 1 ? tile.n_groups : 1;
  for (int first = 0; first < tile.n_groups; first += step) {
    split.run(first, step);
    for (int g = 0; g < step; g++)
      for (int r = 0; r < tile.n_rows[first + g]; r++)
        f((first + g) * kGroup + r, tile.buffers[g].values + r * kValueStride);
  }
}

template <class Function>
void for_each_row(const Tile &tile, Function f) {
  for (int g = 0; g < tile.n_groups; g++)
    for (int r = 0; r < tile.n_rows[g]; r++) f(g * kGroup + r);
}

void finish(const AttentionArgs &a, const Row &row, Partial softmax, float *merged) {
  if (a.sinks) merge_sink(softmax, merged, a.sinks[row.head] * kLog2E, a.head_dim);
  const float inverse = 1.0f / softmax.sum;
  for (int64_t i = 0; i < a.head_dim; i++) merged[i] *= inverse;
  const int64_t at = (row.token * a.n_heads + row.head) * a.head_dim;
  if (a.out) std::memcpy(a.out + at, merged, size_t(a.head_dim) * sizeof(float));
  if (a.out_q8) quantize_row(merged, a.head_dim, a.out_q8 + at / 32);
}

Positions positions_of(int64_t split, int64_t next_split, int64_t end) {
  return {split * kSplit, std::min((split + 1) * kSplit, end), next_split * kSplit, end};
}

// All splits of a tile in order.
template <class Format>
void whole_tile(const AttentionArgs &a, Tile &tile, const Item &item) {
  const Cache<Format> cache = start_tile<Format>(a, tile, item);
  Partial softmax[kMaxRows];
  for_each_row(tile, [&](int r) {
    softmax[r] = {-INFINITY, 0};
    std::fill_n(tile.merged[r], a.value_stride, 0.0f);
  });
  const int64_t end = make_row(a, item.token + item.n_tokens - 1, 0).end;
  for (int64_t s = item.first_split; s < item.first_split + item.n_splits; s++)
    run_split(Split<Format>(cache, tile, positions_of(s, s + 1, end)), tile, item,
              [&](int r, const float *values) {
                const Row &row = tile.rows[r];
                merge(softmax[r], tile.merged[r], {row.maximum, row.sum}, values, a.value_stride);
              });
  for_each_row(tile, [&](int r) { finish(a, tile.rows[r], softmax[r], tile.merged[r]); });
}

// What a split of one row left in the scratch memory: maximum, sum, values.
float *partial(const AttentionArgs &a, const Row &row, int64_t split) {
  const int64_t cell = (row.token * a.n_heads + row.head) * a.max_splits + split;
  return a.scratch + cell * (a.value_stride + 2);
}

void merge_splits(const AttentionArgs &a, Tile &tile, const Item &item) {
  for_each_row(tile, [&](int r) {
    Partial softmax = {-INFINITY, 0};
    std::fill_n(tile.merged[r], a.value_stride, 0.0f);
    for (int64_t s = 0; s < item.n_splits; s++) {
      const float *p = partial(a, tile.rows[r], s);
      merge(softmax, tile.merged[r], {p[0], p[1]}, p + 2, a.value_stride);
    }
    finish(a, tile.rows[r], softmax, tile.merged[r]);
  });
}

// One split of a tile, whose next one is `n_parts` further; the last one to finish merges them all.
template <class Format>
void one_split(const AttentionArgs &a, Tile &tile, const Item &item, int64_t split_index,
               int n_parts, int32_t *counter) {
  const Cache<Format> cache = start_tile<Format>(a, tile, item);
  const int64_t split = item.first_split + split_index;
  const int64_t end = make_row(a, item.token + item.n_tokens - 1, 0).end;
  run_split(Split<Format>(cache, tile, positions_of(split, split + n_parts, end)), tile, item,
            [&](int r, const float *values) {
              float *p = partial(a, tile.rows[r], split_index);
              p[0] = tile.rows[r].maximum;
              p[1] = tile.rows[r].sum;
              std::memcpy(p + 2, values, size_t(a.value_stride) * sizeof(float));
            });
  if (__atomic_add_fetch(counter, 1, __ATOMIC_ACQ_REL) < item.n_splits) return;
  __atomic_store_n(counter, 0, __ATOMIC_RELAXED);
  merge_splits(a, tile, item);
}

// Tokens of a tile: as many as fit, but few enough for every part to get several items.
int64_t tokens_of_tile(int64_t n_tokens, int64_t heads, int64_t items_per_tile, int n_parts) {
  const int64_t most = std::max<int64_t>(1, kMaxRows / heads);
  const int64_t least = std::max<int64_t>(1, kGroup / heads);  // one full group of rows
  const int64_t even = n_tokens * items_per_tile / (4 * n_parts);
  return std::min(most, std::max(least, even / least * least));
}

// The items of a step, dealt out to the parts round robin.
template <class Format>
class Deal {
 public:
  Deal(const AttentionArgs &a, Tile &tile, int part, int n_parts)
      : a_(a), tile_(tile), part_(part), n_parts_(n_parts) {
    group_ = a.n_heads / a.n_kv_heads;
    heads_ = std::min<int64_t>(group_, kMaxRows);
    chunks_ = (group_ + heads_ - 1) / heads_;
    few_ = *a.n_tokens <= a.max_split_tokens;
  }

  void sequence(int64_t seq) {
    const int64_t start = a_.seq_starts[seq], stop = a_.seq_starts[seq + 1];
    if (start == stop) return;
    const int64_t splits = few_ ? a_.positions[stop - 1] / kSplit + 1 : 1;
    const int64_t items_per_tile = a_.n_kv_heads * chunks_ * splits;
    const int64_t step = tokens_of_tile(stop - start, heads_, items_per_tile, n_parts_);
    const int64_t together = heads_together(std::min(step, stop - start), splits);
    // The last tiles of a sequence look furthest back: the longest items go first.
    for (int64_t end = stop; end > start; end -= step) {
      const int64_t token = std::max(start, end - step);
      Item item{seq, token, end - token, 0, together, 0, 0, 0, 0};
      item.first_split = make_row(a_, token, 0).first / kSplit;
      item.n_splits = (make_row(a_, end - 1, 0).end + kSplit - 1) / kSplit - item.first_split;
      tile_of(item);
    }
  }

 private:
  // How many kv heads an item takes: one, or all of them if that leaves every part some items.  Not
  // of more than 64 dimensions, whose values take two passes over each block (32 heads on 8 of 128
  // dimensions, 4096 positions, cold: 0.85 times the speed; 9 on 3 of 64: 1.4 times).
  int64_t heads_together(int64_t n_tokens, int64_t splits) const {
    const bool fit = a_.n_kv_heads <= kMaxGroups && n_tokens * group_ <= kGroup;
    const bool enough = 2 * splits * *a_.n_seqs >= 3 * n_parts_;
    const bool together = few_ && !Format::kScaled && a_.value_stride <= 64 && fit && enough;
    return together ? a_.n_kv_heads : 1;
  }

  void tile_of(Item &item) {
    for (int64_t kv = 0; kv < a_.n_kv_heads; kv += item.n_kv_heads)
      for (int64_t chunk = 0; chunk < chunks_; chunk++) {
        item.kv_head = kv;
        item.head = chunk * heads_;
        item.n_heads = std::min(heads_, group_ - chunk * heads_);
        if (!few_ || item.n_splits == 1) {  // nothing to share: no scratch memory, no counter
          if (mine()) whole_tile<Format>(a_, tile_, item);
          continue;
        }
        int32_t *counter = a_.counters + (item.token * a_.n_kv_heads + kv) * chunks_ + chunk;
        for (int64_t s = 0; s < item.n_splits; s++)
          if (mine()) one_split<Format>(a_, tile_, item, s, n_parts_, counter);
      }
  }

  bool mine() { return n_items_++ % n_parts_ == part_; }

  const AttentionArgs &a_;
  Tile &tile_;
  const int part_, n_parts_;
  int64_t group_, heads_, chunks_;  // query heads of a kv head; of an item; items they make
  bool few_;
  int64_t n_items_ = 0;
};

template <class Format>
void attention(const void *args, int part, int n_parts) {
  const AttentionArgs &a = *static_cast<const AttentionArgs *>(args);
  const typename Format::Denormals denormals;
  ScratchMemory memory(sizeof(Tile));
  Deal<Format> deal(a, *new (memory.bytes()) Tile, part, n_parts);
  for (int64_t seq = 0; seq < *a.n_seqs; seq++) deal.sequence(seq);
}

int64_t scratch_bytes(const void *) { return sizeof(Tile); }

PYRO_KERNEL("attention.f32", attention<F32Format>, scratch_bytes);
PYRO_KERNEL("attention.f16", attention<F16Format>, scratch_bytes);
PYRO_KERNEL("attention.bf16", attention<Bf16Format>, scratch_bytes);
PYRO_KERNEL("attention.q8_0", attention<Q8Format>, scratch_bytes);

}  // namespace
