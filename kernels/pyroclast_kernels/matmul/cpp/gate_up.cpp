// gate_up: the first half of a gated feed-forward in one pass, out = f(gate) * up where gate and up
// are the products of the upper and the lower half of a block-quantized weight with a token.
// Same bits as matmul and then glu.  It saves writing and reading both products, and a barrier.
// See reference.py for the contract, block_tile.h for the tile.
//
// Loop order: panel of 32-column blocks of the result whose weights fit L2 -> tile of tokens ->
// block.  A tile leaves its sums in L1, where the epilogue finds them.
#include "activation/cpp/gate.h"
#include "activation/cpp/quantize.h"
#include "products.h"

namespace {

struct GateUpArgs {
  const int64_t *n_tokens;
  const Q8Block *x;
  const uint8_t *weight;
  float *out;
  Q8Block *out_q8;
  int64_t d_ff;
  int64_t n_cols;
  int64_t activation;
};

// The sums of n tokens by the gate and the up rows of one group, side by side: two groups far
// apart at once where the registers suffice.
void gate_and_up(const GateUpArgs &a, const Tiles &tiles, int64_t group_size, int64_t group,
                 const Q8Block *x, int n, Fetch fetch, float *sums) {
  const int64_t distance = a.d_ff / kLanes * group_size;
  const Spread spread{distance, 0};
  const uint8_t *gate = a.weight + group * group_size;
  if (groups_for(n) >= 2 && (*a.n_tokens > kStreamTokens || streams_for(n) == 2))
    return tiles.two(gate, spread, a.n_cols, x, fetch, sums, 2 * kLanes);
  tiles.one(gate, spread, a.n_cols, x, fetch, sums, 2 * kLanes);
  tiles.one(gate + distance, spread, a.n_cols, x, fetch, sums + kLanes, 2 * kLanes);
}

// n columns of token t, from the first of a block of the result on.
void finish(const GateUpArgs &a, const float *y, int64_t block, int64_t t, int64_t n) {
  if (a.out) std::memcpy(a.out + t * a.d_ff + block * kBlock, y, size_t(n) * sizeof(float));
  if (a.out_q8) quantize_block(y, a.out_q8[t * (a.d_ff / kBlock) + block]);
}

// n tokens by the 32 columns of a block of the result (16 where d_ff ends).
void result_block(const GateUpArgs &a, const Tiles &tiles, int64_t group_size, int64_t block,
                  int64_t token, int n_tokens, Fetch fetch) {
  const Q8Block *x = a.x + token * (a.n_cols / kBlock);
  const int64_t n = std::min<int64_t>(kBlock, a.d_ff - block * kBlock);
  alignas(64) float y[kMaxTokens][kBlock];
  alignas(64) float sums[kMaxTokens][2 * kLanes];
  for (int64_t i = 0; i < n; i += kLanes) {
    gate_and_up(a, tiles, group_size, (block * kBlock + i) / kLanes, x, n_tokens, fetch, *sums);
    for (int m = 0; m < n_tokens; m++)
      store(y[m] + i, gated(a.activation, load(sums[m]), load(sums[m] + kLanes)));
  }
  for (int m = 0; m < n_tokens; m++) finish(a, y[m], block, token + m, n);
}

// n tokens by as many whole blocks as fill four streams, two of the gate and two of up; returns the
// first block that is left.
int64_t stream(const GateUpArgs &a, const Tiles &tiles, int64_t group_size, Range blocks, int n,
               Fetch fetch) {
  const int64_t length = (std::min(blocks.end, a.d_ff / kBlock) - blocks.begin) / 2;
  const int64_t block_bytes = kBlock / kLanes * group_size;
  const Spread spread{a.d_ff / kLanes * group_size, length * block_bytes};
  for (int64_t block = blocks.begin; block < blocks.begin + length; block++) {
    alignas(64) float y[kStreamTokens][2][kBlock];
    alignas(64) float sums[kStreamTokens][2][2 * kLanes];
    for (int64_t i = 0; i < kBlock; i += kLanes) {
      tiles.streams(a.weight + block * block_bytes + i / kLanes * group_size, spread, a.n_cols, a.x,
                    fetch, **sums, 4 * kLanes);
      for (int m = 0; m < n; m++)
        for (int far = 0; far < 2; far++) {
          const float *pair = sums[m][far];
          store(y[m][far] + i, gated(a.activation, load(pair), load(pair + kLanes)));
        }
    }
    for (int m = 0; m < n; m++)
      for (int far = 0; far < 2; far++) finish(a, y[m][far], block + far * length, m, kBlock);
  }
  return blocks.begin + 2 * length;
}

}  // namespace

void gate_up_of(const BlockFormat &format, const void *args, int part, int n_parts) {
  const GateUpArgs &a = *static_cast<const GateUpArgs *>(args);
  const Range mine = split((a.d_ff + kBlock - 1) / kBlock, part, n_parts);
  const int64_t size = format.group_bytes(a.n_cols);
  for_each_panel(mine, kBlock / kLanes, size, *a.n_tokens, a.n_cols,
                 [&](Range blocks, int64_t token, int n, Fetch fetch) {
                   const Tiles &tiles = format.tiles[n - 1];
                   int64_t block = blocks.begin;
                   if (*a.n_tokens <= kStreamTokens && streams_for(n) == 4)
                     block = stream(a, tiles, size, blocks, n, fetch);
                   for (; block < blocks.end; block++)
                     result_block(a, tiles, size, block, token, n, fetch);
                 });
}
