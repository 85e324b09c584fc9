// Products of block-quantized packed weights with a ragged batch of tokens: out[t, row] = sum over
// k of weight[row, k] * x[t, k], float32 out.  See reference.py for the contract, packed.h for the
// layout; plain values (f32, f16, bf16) are in values.cpp.
//
// The tile and its order of additions are in block_tile.h, the formats in *_formats.cpp.
// Loop order: panel of row groups -> tile of tokens -> group -> block.
// Tails: the last group of rows is padded in memory and stored lane by lane; there is a tile for
// any number of tokens from 1 to kMaxTokens.
#include "product.h"
#include "products.h"

namespace {

// n tokens by the given groups.  Where nothing is added, a tile writes to its place in `out`.
void store_tile(const MatmulArgs &a, TileFunction tile, int64_t group_size, Range groups,
                int64_t token, int n, Fetch fetch) {
  const Q8Block *x = (const Q8Block *)a.x + token * (a.n_cols / kBlock);
  const uint8_t *weight = a.weight + groups.begin * group_size;
  const Spread spread{group_size, 2 * group_size};
  if (!a.bias && !a.accumulate && groups.end * kLanes <= a.n_rows)
    return tile(weight, spread, a.n_cols, x, fetch,
                a.out + token * a.out_stride + groups.begin * kLanes, a.out_stride);
  alignas(64) float sums[kMaxCells * kLanes];
  const int64_t stride = (groups.end - groups.begin) * kLanes;
  tile(weight, spread, a.n_cols, x, fetch, sums, stride);
  for (int m = 0; m < n; m++)
    for (int64_t g = groups.begin; g < groups.end; g++)
      store_sum(a, g, token + m, load(sums + m * stride + (g - groups.begin) * kLanes));
}

// n tokens by as many groups as fill all streams; returns the first group that is left.
int64_t stream(const MatmulArgs &a, const Tiles &tiles, int64_t group_size, Range groups, int n,
               Fetch fetch) {
  const int n_streams = streams_for(n);
  const int64_t length = (groups.end - groups.begin) / n_streams, far = length * group_size;
  alignas(64) float sums[kMaxCells * kLanes];
  for (int64_t g = groups.begin; g < groups.begin + length; g++) {
    tiles.streams(a.weight + g * group_size, {far, 2 * far}, a.n_cols, (const Q8Block *)a.x, fetch,
                  sums, n_streams * kLanes);
    for (int m = 0; m < n; m++)
      for (int i = 0; i < n_streams; i++)
        store_sum(a, g + i * length, m, load(sums + (m * n_streams + i) * kLanes));
  }
  return groups.begin + n_streams * length;
}

}  // namespace

void matmul_of(const BlockFormat &format, const void *args, int part, int n_parts) {
  const MatmulArgs &a = *static_cast<const MatmulArgs *>(args);
  const Range mine = split((a.n_rows + kLanes - 1) / kLanes, part, n_parts);
  const int64_t size = format.group_bytes(a.n_cols);
  for_each_panel(mine, 1, size, *a.n_tokens, a.n_cols,
                 [&](Range groups, int64_t token, int n, Fetch fetch) {
                   const Tiles &tiles = format.tiles[n - 1];
                   const int most = *a.n_tokens > kStreamTokens ? groups_for(n) : 1;
                   int64_t g = groups.begin;
                   if (streams_for(n) > 1 && *a.n_tokens <= kStreamTokens)
                     g = stream(a, tiles, size, groups, n, fetch);
                   if (most > 1)
                     for (; g + most <= groups.end; g += most)
                       store_tile(a, tiles.most, size, {g, g + most}, token, n, fetch);
                   for (; g < groups.end; g++)
                     store_tile(a, tiles.one, size, {g, g + 1}, token, n, fetch);
                 });
}
