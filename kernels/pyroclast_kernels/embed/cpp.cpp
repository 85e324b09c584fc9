// embed: out[t] = scale * row token_ids[t] of a packed weight, dequantized to float32, or added to
// what out[t] holds.
// One token per item; a row is one lane of its group, so the reads are strided: a few microseconds.
#include "matmul/cpp/tables.h"

namespace {

struct EmbedArgs {
  const int64_t *n_tokens;
  const int32_t *token_ids;
  const uint8_t *weight;
  float *out;
  int64_t n_cols;
  double scale;
  int64_t accumulate;
};

// y = scale * row, or y += scale * row.
template <bool kAccumulate>
PYRO_INLINE void put(float &y, float scale, float value) {
  y = kAccumulate ? y + scale * value : scale * value;
}

template <class F, bool kAccumulate>
void embed_blocks(const uint8_t *group, int lane, int64_t n_cols, float by, float *out) {
  constexpr int kColumns = kBlock / F::kHalves;  // that share a scale
  for (int64_t b = 0; b < n_cols / kBlock; b++) {
    const uint8_t *header = group + F::header_offset(b), *quants = group + F::quants_offset(b);
    for (int half = 0; half < F::kHalves; half++) {
      NativeF scale, minimum;
      F::load_scales(header, int(b % F::kHeaderBlocks), half, lane / kWidth, scale, minimum);
      for (int i = kColumns * half; i < kColumns * (half + 1); i++) {
        float y = scale[lane % kWidth] * float(F::code(quants, lane, i) - F::kOffset);
        if constexpr (F::kHasMin) y += minimum[lane % kWidth];
        put<kAccumulate>(*out++, by, y);
      }
    }
  }
}

template <class F, bool kAccumulate>
void embed_row(const uint8_t *group, int lane, int64_t n_cols, float by, float *out) {
  if constexpr (kIsBlock<F>)
    embed_blocks<F, kAccumulate>(group, lane, n_cols, by, out);
  else
    for (int64_t k = 0; k < n_cols; k++)
      put<kAccumulate>(out[k], by, F::value(group + (k * kLanes + lane) * F::kValueBytes));
}

template <class F>
void embed(const void *args, int part, int n_parts) {
  const EmbedArgs &a = *static_cast<const EmbedArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  for (int64_t t = mine.begin; t < mine.end; t++) {
    const int64_t row = a.token_ids[t];
    const uint8_t *group = a.weight + row / kLanes * group_bytes<F>(a.n_cols);
    const auto embed_one = a.accumulate ? embed_row<F, true> : embed_row<F, false>;
    embed_one(group, int(row % kLanes), a.n_cols, float(a.scale), a.out + t * a.n_cols);
  }
}

PYRO_KERNEL("embed.q8_0", embed<Q8_0>);
PYRO_KERNEL("embed.q4_0", embed<Q4_0>);
PYRO_KERNEL("embed.q4_1", embed<Q4_1>);
PYRO_KERNEL("embed.q5_0", embed<Q5_0>);
PYRO_KERNEL("embed.q5_1", embed<Q5_1>);
PYRO_KERNEL("embed.q2_k", embed<Q2_K>);
PYRO_KERNEL("embed.q3_k", embed<Q3_K>);
PYRO_KERNEL("embed.q4_k", embed<Q4_K>);
PYRO_KERNEL("embed.q5_k", embed<Q5_K>);
PYRO_KERNEL("embed.q6_k", embed<Q6_K>);
PYRO_KERNEL("embed.iq4_nl", embed<IQ4_NL>);
PYRO_KERNEL("embed.iq4_xs", embed<IQ4_XS>);
PYRO_KERNEL("embed.iq3_s", embed<IQ3_S>);
PYRO_KERNEL("embed.mxfp4", embed<MXFP4>);
PYRO_KERNEL("embed.t4_k", embed<T4_K>);
PYRO_KERNEL("embed.f32", embed<F32>);
PYRO_KERNEL("embed.f16", embed<F16>);
PYRO_KERNEL("embed.bf16", embed<BF16>);

}  // namespace
