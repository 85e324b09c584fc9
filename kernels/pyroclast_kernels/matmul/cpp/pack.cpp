// pack: rows as they lie in the file -> the packed layout of packed.h.  See packing.py.
//
// Each part fills its own groups of 16 rows; rows [row_offset, row_offset + n_rows) of the packed
// matrix are written, so several tensors can be laid side by side (wq, wk and wv, for instance).
#include "table_blocks.h"

namespace {

struct PackArgs {
  const uint8_t *raw;
  uint8_t *weight;
  int64_t n_rows;
  int64_t n_cols;
  int64_t row_offset;
};

template <class F>
void pack_blocks(const uint8_t *row, uint8_t *group, int lane, int64_t n_cols) {
  static_assert(F::kHeaderBytes == kLanes * (2 * File<F>::kHalves + File<F>::kSmall));
  for (int64_t b = 0; b < n_cols / kBlock; b += F::kHeaderBlocks) {
    uint8_t *header = group + F::header_offset(b), *quants = group + F::quants_offset(b);
    FileBlock<File<F>::kColumns> block;
    File<F>::read(row, block);
    for (int i = 0; i < File<F>::kHalves; i++)
      std::memcpy(header + 2 * (i * kLanes + lane), block.halves + 2 * i, 2);
    for (int i = 0; i < File<F>::kSmall; i++)
      header[(2 * File<F>::kHalves + i) * kLanes + lane] = block.bytes[i];
    for (int i = 0; i < File<F>::kColumns; i += kBlock, quants += F::kQuantBytes)
      F::put(quants, lane, block.codes + i);
    row += File<F>::kBytes;
  }
}

template <class F>
void pack_row(const uint8_t *row, uint8_t *group, int lane, int64_t n_cols) {
  if constexpr (kIsBlock<F>)
    pack_blocks<F>(row, group, lane, n_cols);
  else
    for (int64_t k = 0; k < n_cols; k++)
      std::memcpy(group + (k * kLanes + lane) * F::kValueBytes, row + k * F::kValueBytes,
                  F::kValueBytes);
}

template <class F>
void pack(const void *args, int part, int n_parts) {
  const PackArgs &a = *static_cast<const PackArgs *>(args);
  int64_t row_bytes;
  if constexpr (kIsBlock<F>)
    row_bytes = a.n_cols / File<F>::kColumns * File<F>::kBytes;
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
PYRO_KERNEL("pack.q5_0", pack<Q5_0>);
PYRO_KERNEL("pack.q5_1", pack<Q5_1>);
PYRO_KERNEL("pack.q2_k", pack<Q2_K>);
PYRO_KERNEL("pack.q3_k", pack<Q3_K>);
PYRO_KERNEL("pack.q4_k", pack<Q4_K>);
PYRO_KERNEL("pack.q5_k", pack<Q5_K>);
PYRO_KERNEL("pack.q6_k", pack<Q6_K>);
PYRO_KERNEL("pack.iq4_nl", pack<IQ4_NL>);
PYRO_KERNEL("pack.iq4_xs", pack<IQ4_XS>);
PYRO_KERNEL("pack.iq3_s", pack<IQ3_S>);
PYRO_KERNEL("pack.mxfp4", pack<MXFP4>);
PYRO_KERNEL("pack.t4_k", pack<T4_K>);
PYRO_KERNEL("pack.f32", pack<F32>);
PYRO_KERNEL("pack.f16", pack<F16>);
PYRO_KERNEL("pack.bf16", pack<BF16>);

}  // namespace
