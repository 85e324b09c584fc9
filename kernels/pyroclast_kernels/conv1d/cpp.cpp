// conv1d: the causal convolution of each channel over a sequence's tokens, with its state.
//
// Items are 128 channels of a sequence.  A part first computes every token of its channels, which
// reads the slot where the sequence begins, and then writes the slots: one of them may be the same.
#include <algorithm>

#include "activation/cpp/gate.h"
#include "activation/cpp/quantize.h"

namespace {

constexpr int64_t kChannels = 128;  // of an item; whole blocks of 32
constexpr int64_t kGated = 1;       // KINDS of __init__.py

struct Conv1dArgs {
  const int64_t *n_seqs;
  const int32_t *seq_starts;
  const int32_t *slots_in;
  const int32_t *slots_out;
  const float *x;
  const float *weight;
  const float *bias;
  float *state;
  float *out;
  Q8Block *out_q8;
  int64_t n_channels;
  int64_t width;
  int64_t x_stride;
  int64_t kind;
};

// The tokens [begin, end) of a sequence, and the slot in which it begins (or null).
struct Sequence {
  int64_t begin, end;
  const float *state;
};

// What the filter reads of token t, at channels c .. c + 15, n of which there are.
template <bool kIsGated>
PYRO_INLINE f32x16 input(const Conv1dArgs &a, const Sequence &s, int64_t t, int64_t c, int64_t n) {
  if (t < s.begin) {
    const int64_t row = t - s.begin + a.width - 1;
    return s.state ? load_n(s.state + row * a.n_channels + c, n) : set1(0.0f);
  }
  const float *x = a.x + t * a.x_stride + c;
  if constexpr (kIsGated) return load_n(x, n) * load_n(x + 2 * a.n_channels, n);
  return load_n(x, n);
}

// y = the filters' sums of token t, at these channels; one row of u after the other, so that where
// it lies is decided once for all channels.
template <bool kIsGated>
PYRO_INLINE void filter(const Conv1dArgs &a, const Sequence &s, int64_t t, Range channels,
                        float *y) {
  for (int64_t i = 0; i < a.width; i++) {
    const float *weight = a.weight + i * a.n_channels;
    for (int64_t c = channels.begin; c < channels.end; c += kLanes) {
      const int64_t n = channels.end - c;
      const f32x16 sum = i ? load(y + c - channels.begin) : set1(0.0f);
      const f32x16 u = input<kIsGated>(a, s, t - a.width + 1 + i, c, n);
      store(y + c - channels.begin, fma(load_n(weight + c, n), u, sum));
    }
  }
}

// out = what becomes of the sums.
template <bool kIsGated>
PYRO_INLINE void finish(const Conv1dArgs &a, int64_t t, Range channels, const float *y,
                        float *out) {
  const float *gate = a.x + t * a.x_stride + a.n_channels;
  for (int64_t c = channels.begin, i = 0; c < channels.end; c += kLanes, i += kLanes) {
    const int64_t n = channels.end - c;
    const f32x16 sum = a.bias ? load(y + i) + load_n(a.bias + c, n) : load(y + i);
    store_n(out + i, kIsGated ? load_n(gate + c, n) * sum : silu(sum), n);
  }
}

template <bool kIsGated>
void keep(const Conv1dArgs &a, const Sequence &s, int64_t t, Range channels) {
  float *state = a.state + a.slots_out[t] * (a.width - 1) * a.n_channels;
  for (int64_t i = 0; i < a.width - 1; i++)  // upwards: a row may come from one above in this slot
    for (int64_t c = channels.begin; c < channels.end; c += kLanes) {
      const int64_t n = channels.end - c;
      store_n(state + i * a.n_channels + c, input<kIsGated>(a, s, t - a.width + 2 + i, c, n), n);
    }
}

// Of the tokens that write the slot in which the sequence begins, the last one counts.
template <bool kIsGated>
void keep_states(const Conv1dArgs &a, const Sequence &s, Range channels, int64_t own_slot) {
  int64_t own = -1;
  for (int64_t t = s.begin; t < s.end; t++) {
    if (a.slots_out[t] < 0) continue;
    if (a.slots_out[t] == own_slot)
      own = t;
    else
      keep<kIsGated>(a, s, t, channels);
  }
  if (own >= 0) keep<kIsGated>(a, s, own, channels);
}

template <bool kIsGated>
void convolve(const Conv1dArgs &a, int part, int n_parts) {
  const int64_t runs = (a.n_channels + kChannels - 1) / kChannels;
  const Range mine = split(*a.n_seqs * runs, part, n_parts);
  for (int64_t item = mine.begin; item < mine.end; item++) {
    const int64_t seq = item / runs, first = item % runs * kChannels, slot = a.slots_in[seq];
    const Range channels = {first, std::min(first + kChannels, a.n_channels)};
    const float *state = slot < 0 ? nullptr : a.state + slot * (a.width - 1) * a.n_channels;
    const Sequence s = {a.seq_starts[seq], a.seq_starts[seq + 1], state};
    for (int64_t t = s.begin; t < s.end; t++) {
      alignas(64) float sums[kChannels], y[kChannels];
      float *out = a.out ? a.out + t * a.n_channels + first : y;
      filter<kIsGated>(a, s, t, channels, sums);
      finish<kIsGated>(a, t, channels, sums, out);
      if (a.out_q8)
        quantize_row(out, channels.end - first, a.out_q8 + (t * a.n_channels + first) / 32);
    }
    keep_states<kIsGated>(a, s, channels, slot);
  }
}

void conv1d(const void *args, int part, int n_parts) {
  const Conv1dArgs &a = *static_cast<const Conv1dArgs *>(args);
  if (a.kind == kGated)
    convolve<true>(a, part, n_parts);
  else
    convolve<false>(a, part, n_parts);
}

PYRO_KERNEL("conv1d.f32", conv1d);

}  // namespace
