// Streaming reads by any of the patterns that a kernel could use: what memory delivers at most.
#pragma once

#include "native/simd.h"

constexpr int64_t kLine = 64;
constexpr int kLinesInFlight = 16;
// Sums side by side, so that no chain of additions limits it, and no more than registers hold.
constexpr int kSums = kWidth == 16 ? 16 : kWidth / 2;

// Words wrap, which signed integers must not.
PYRO_INLINE i32x16 add_words(i32x16 a, i32x16 b) {
  typedef uint32_t NativeU __attribute__((vector_size(4 * kWidth)));
  PYRO_EACH a.v[r] = (NativeI)((NativeU)a.v[r] + (NativeU)b.v[r]);
  return a;
}

// The bytes of [start, start + n_streams * length) summed up as 32-bit words, wrapping: n_streams
// runs side by side, each prefetching `distance` bytes ahead of itself (0: hardware alone).
// length is a multiple of kLine.
template <int kStreams>
PYRO_INLINE int64_t read_streams(const uint8_t *start, int64_t length, int64_t distance) {
  constexpr int kRun = kLinesInFlight / kStreams;  // lines of a stream in a row
  i32x16 sum[kSums];
#pragma GCC unroll 16
  for (int k = 0; k < kSums; k++) sum[k] = set1i(0);
  int64_t i = 0;
  for (; i + kRun * kLine <= length; i += kRun * kLine) {
#pragma GCC unroll 16
    for (int k = 0; k < kLinesInFlight; k++) {
      const uint8_t *p = start + (k / kRun) * length + i + (k % kRun) * kLine;
      if (distance) __builtin_prefetch(p + distance);
      sum[k % kSums] = add_words(sum[k % kSums], loadi(p));
    }
  }
  for (; i < length; i += kLine)
    for (int s = 0; s < kStreams; s++) sum[0] = add_words(sum[0], loadi(start + s * length + i));
  for (int k = 1; k < kSums; k++) sum[0] = add_words(sum[0], sum[k]);
  int32_t lanes[kLanes];
  uint32_t total = 0;
  std::memcpy(lanes, &sum[0], sizeof lanes);
  for (int32_t lane : lanes) total += uint32_t(lane);
  return total;
}

// [start, start + length) by n_streams: 1, 2, 4, 8 or 16.  What the division leaves over is read
// at the end.
inline int64_t read_run(const uint8_t *start, int64_t length, int64_t n_streams, int64_t distance) {
  const int64_t each = length / kLine / n_streams * kLine, rest = length - each * n_streams;
  int64_t sum = read_streams<1>(start + each * n_streams, rest, 0);
  switch (n_streams) {
    case 1:
      return sum + read_streams<1>(start, each, distance);
    case 2:
      return sum + read_streams<2>(start, each, distance);
    case 4:
      return sum + read_streams<4>(start, each, distance);
    case 8:
      return sum + read_streams<8>(start, each, distance);
    default:
      return sum + read_streams<16>(start, each, distance);
  }
}
