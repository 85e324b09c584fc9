// pack: rows as they lie in the file -> the packed layout of packed.h.  See packing.py.
//
// Each part fills its own groups of 16 rows; rows [row_offset, row_offset + n_rows) of the packed
// matrix are written, so several tensors can be laid side by side (wq, wk and wv, for instance).
#include "packed.h"

namespace {

struct PackArgs {
  const uint8_t *raw;
  uint8_t *weight;
  int64_t n_rows;
  int64_t n_cols;
  int64_t row_offset;
};

template <class F>
void pack_row(const uint8_t *row, uint8_t *group, int lane, int64_t n_cols) {
  if constexpr (kIsBlock<F>) {
    uint8_t *quants = group + F::quants_offset(n_cols);
    constexpr int64_t kHeader = F::kHasMin ? 4 : 2, kQuads = F::kQuantBytes / 64;
    for (int64_t b = 0; b < n_cols / kBlock; b++) {
      const uint8_t *block = row + b * F::kFileBytes;
      uint16_t *scales = (uint16_t *)(group + b * F::kScaleBytes);
      std::memcpy(scales + lane, block, 2);
      if constexpr (F::kHasMin) std::memcpy(scales + kLanes + lane, block + 2, 2);
      for (int64_t k = 0; k < kQuads; k++) {
        uint32_t quad;
        std::memcpy(&quad, block + kHeader + 4 * k, 4);
        if constexpr (F::kOffset128) quad ^= 0x80808080u;
        std::memcpy(quants + b * F::kQuantBytes + 64 * k + 4 * lane, &quad, 4);
      }
    }
  } else {
    for (int64_t k = 0; k < n_cols; k++)
      std::memcpy(group + (k * kLanes + lane) * F::kValueBytes, row + k * F::kValueBytes,
                  F::kValueBytes);
  }
}

template <class F>
void pack(const void *args, int part, int n_parts) {
  const PackArgs &a = *static_cast<const PackArgs *>(args);
  int64_t row_bytes;
  if constexpr (kIsBlock<F>)
    row_bytes = a.n_cols / kBlock * F::kFileBytes;
  else
    row_bytes = a.n_cols * F::kValueBytes;
  const int64_t first = a.row_offset / kLanes, end_row = a.row_offset + a.n_rows;
  const Range mine = split((end_row + kLanes - 1) / kLanes - first, part, n_parts);
  for (int64_t g = first + mine.begin; g < first + mine.end; g++)
    for (int lane = 0; lane < kLanes; lane++) {
      const int64_t row = g * kLanes + lane;
      if (row < a.row_offset || row >= end_row) continue;
      pack_row<F>(a.raw + (row - a.row_offset) * row_bytes, a.weight + g * group_bytes<F>(a.n_cols),
                  lane, a.n_cols);
    }
}

PYRO_KERNEL("pack.q8_0", pack<Q8_0>);
PYRO_KERNEL("pack.q4_0", pack<Q4_0>);
PYRO_KERNEL("pack.q4_1", pack<Q4_1>);
PYRO_KERNEL("pack.f32", pack<F32>);
PYRO_KERNEL("pack.f16", pack<F16>);
PYRO_KERNEL("pack.bf16", pack<BF16>);

}  // namespace
