// Causal attention of a ragged batch over the paged cache.  See reference.py for the contract,
// cache.py for the layouts, tile.h for the inner loops.
//
// A query's positions are worked off in splits of kSplit, cut at multiples of kSplit whatever the
// batch: maximum, exponentials, their sum and the weighted values of a split, then the merge of the
// splits from left to right.  So the bits depend on the sequence alone.
//
// Many tokens: an item is (tile of queries, kv head) and merges its splits as it goes.  Few tokens:
// an item is (tile, kv head, split); whoever finishes the last split of a tile merges it.
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
  int64_t max_splits;
  int64_t max_split_tokens;
};

thread_local Tile tile;

// Which queries a tile holds: tokens [token, token + n_tokens) of sequence `seq`, query heads
// [head, head + n_heads), which read kv_head; and the splits that they see.
struct Item {
  int64_t seq, token, n_tokens;
  int64_t kv_head, head, n_heads;
  int64_t first_split, n_splits;
};

Row make_row(const AttentionArgs &a, int64_t token, int64_t q_head) {
  const int64_t stride = (a.n_heads + 2 * a.n_kv_heads) * a.head_dim, end = a.positions[token] + 1;
  const int64_t first = a.window > 0 ? std::max<int64_t>(0, end - a.window) : 0;
  return {a.qkv + token * stride + q_head * a.head_dim, first, end, -INFINITY, 0, 0};
}

template <class Format>
Head<Format> start_tile(const AttentionArgs &a, const Item &item) {
  tile.n_rows = 0;
  for (int64_t t = item.token; t < item.token + item.n_tokens; t++)
    for (int64_t h = item.head; h < item.head + item.n_heads; h++)
      tile.rows[tile.n_rows++] = make_row(a, t, h);
  gather_queries<typename Format::Source>(tile, a.head_dim);
  const int32_t *block_table = a.block_tables + item.seq * a.max_blocks;
  return {static_cast<const uint8_t *>(a.k_cache),
          static_cast<const uint8_t *>(a.v_cache),
          block_table,
          item.kv_head,
          a.n_kv_heads,
          a.head_dim,
          a.value_stride};
}

void finish(const AttentionArgs &a, const Item &item, int row, float sum, float *merged) {
  const float inverse = 1.0f / sum;
  for (int64_t i = 0; i < a.head_dim; i++) merged[i] *= inverse;
  const int64_t token = item.token + row / item.n_heads, head = item.head + row % item.n_heads;
  const int64_t at = (token * a.n_heads + head) * a.head_dim;
  if (a.out) std::memcpy(a.out + at, merged, size_t(a.head_dim) * sizeof(float));
  if (a.out_q8) quantize_row(merged, a.head_dim, a.out_q8 + at / 32);
}

// All splits of a tile in order.
template <class Format>
void whole_tile(const AttentionArgs &a, const Item &item) {
  const Head<Format> head = start_tile<Format>(a, item);
  Partial softmax[kMaxRows];
  for (int r = 0; r < tile.n_rows; r++) {
    softmax[r] = {-INFINITY, 0};
    std::fill_n(tile.merged[r], a.value_stride, 0.0f);
  }
  const int64_t end = tile.rows[tile.n_rows - 1].end;
  for (int64_t s = item.first_split; s < item.first_split + item.n_splits; s++) {
    Split<Format> split(head, tile, s * kSplit, std::min((s + 1) * kSplit, end));
    for (int first = 0; first < tile.n_rows; first += kGroup) {
      split.run(first);
      for (int r = first; r < std::min(first + kGroup, tile.n_rows); r++)
        merge(softmax[r], tile.merged[r], {tile.rows[r].maximum, tile.rows[r].sum},
              tile.group.values + (r - first) * kValueStride, a.value_stride);
    }
  }
  for (int r = 0; r < tile.n_rows; r++) finish(a, item, r, softmax[r].sum, tile.merged[r]);
}

// What a split of one row left in the scratch memory: maximum, sum, values.
float *partial(const AttentionArgs &a, const Item &item, int row, int64_t split) {
  const int64_t token = item.token + row / item.n_heads, head = item.head + row % item.n_heads;
  const int64_t cell = (token * a.n_heads + head) * a.max_splits + split;
  return a.scratch + cell * (a.value_stride + 2);
}

void merge_splits(const AttentionArgs &a, const Item &item) {
  for (int r = 0; r < int(item.n_tokens * item.n_heads); r++) {
    Partial softmax = {-INFINITY, 0};
    std::fill_n(tile.merged[r], a.value_stride, 0.0f);
    for (int64_t s = 0; s < item.n_splits; s++) {
      const float *p = partial(a, item, r, s);
      merge(softmax, tile.merged[r], {p[0], p[1]}, p + 2, a.value_stride);
    }
    finish(a, item, r, softmax.sum, tile.merged[r]);
  }
}

// One split of a tile; the last one to finish merges them all.
template <class Format>
void one_split(const AttentionArgs &a, const Item &item, int64_t split_index, int32_t *counter) {
  const Head<Format> head = start_tile<Format>(a, item);
  const int64_t begin = (item.first_split + split_index) * kSplit;
  const int64_t end = std::min(begin + kSplit, tile.rows[tile.n_rows - 1].end);
  Split<Format> split(head, tile, begin, end);
  for (int first = 0; first < tile.n_rows; first += kGroup) {
    split.run(first);
    for (int r = first; r < std::min(first + kGroup, tile.n_rows); r++) {
      float *p = partial(a, item, r, split_index);
      p[0] = tile.rows[r].maximum;
      p[1] = tile.rows[r].sum;
      std::memcpy(p + 2, tile.group.values + (r - first) * kValueStride,
                  size_t(a.value_stride) * sizeof(float));
    }
  }
  if (__atomic_add_fetch(counter, 1, __ATOMIC_ACQ_REL) < item.n_splits) return;
  __atomic_store_n(counter, 0, __ATOMIC_RELAXED);
  merge_splits(a, item);
}

// Tokens of a tile: as many as fit, but few enough for every part to get several items.
int64_t tokens_of_tile(int64_t n_tokens, int64_t heads, int64_t items_per_tile, int n_parts) {
  const int64_t most = std::max<int64_t>(1, kMaxRows / heads);
  const int64_t least = std::max<int64_t>(1, kGroup / heads);  // one full group of rows
  const int64_t even = n_tokens * items_per_tile / (4 * n_parts);
  return std::min(most, std::max(least, even / least * least));
}

// The items of a step, dealt out to the parts in turn.
template <class Format>
class Deal {
 public:
  Deal(const AttentionArgs &a, int part, int n_parts) : a_(a), part_(part), n_parts_(n_parts) {
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
    // The last tiles of a sequence look furthest back: the longest items go first.
    for (int64_t end = stop; end > start; end -= step) {
      const int64_t token = std::max(start, end - step);
      Item item{seq, token, end - token, 0, 0, 0, 0, 0};
      item.first_split = make_row(a_, token, 0).first / kSplit;
      item.n_splits = (make_row(a_, end - 1, 0).end + kSplit - 1) / kSplit - item.first_split;
      tile_of(item);
    }
  }

 private:
  void tile_of(Item &item) {
    const int64_t columns = a_.n_kv_heads * chunks_;  // (kv head, chunk of its query heads)
    for (int64_t column = 0; column < columns; column++) {
      const int64_t chunk = column % chunks_;
      item.kv_head = column / chunks_;
      item.head = item.kv_head * group_ + chunk * heads_;
      item.n_heads = std::min(heads_, group_ - chunk * heads_);
      if (!few_ || item.n_splits == 1) {  // nothing to share: no scratch memory, no counter
        if (mine()) whole_tile<Format>(a_, item);
        continue;
      }
      int32_t *counter = a_.counters + item.token * columns + column;
      for (int64_t s = 0; s < item.n_splits; s++)
        if (mine()) one_split<Format>(a_, item, s, counter);
    }
  }

  bool mine() { return n_items_++ % n_parts_ == part_; }

  const AttentionArgs &a_;
  const int part_, n_parts_;
  int64_t group_, heads_, chunks_;  // query heads of a kv head; of an item; items they make
  bool few_;
  int64_t n_items_ = 0;
};

template <class Format>
void attention(const void *args, int part, int n_parts) {
  const AttentionArgs &a = *static_cast<const AttentionArgs *>(args);
  const typename Format::Denormals denormals;
  Deal<Format> deal(a, part, n_parts);
  for (int64_t seq = 0; seq < *a.n_seqs; seq++) deal.sequence(seq);
}

PYRO_KERNEL("attention.f32", attention<F32Format>);
PYRO_KERNEL("attention.f16", attention<F16Format>);
PYRO_KERNEL("attention.bf16", attention<Bf16Format>);
PYRO_KERNEL("attention.q8_0", attention<Q8Format>);

}  // namespace
