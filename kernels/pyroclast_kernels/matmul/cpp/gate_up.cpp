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
                 const Q8Block *x, int n, Fetch fetch, float (*sums)[2 * kLanes]) {
  const int64_t distance = a.d_ff / kLanes * group_size;
  const uint8_t *gate = a.weight + group * group_size;
  if (groups_for(n) >= 2 && *a.n_tokens > kStreamTokens)
    return tiles.two(gate, distance, a.n_cols, x, fetch, *sums, 2 * kLanes);
  tiles.one(gate, distance, a.n_cols, x, fetch, *sums, 2 * kLanes);
  tiles.one(gate + distance, distance, a.n_cols, x, fetch, *sums + kLanes, 2 * kLanes);
}

// n tokens by the 32 columns of a block of the result (16 where d_ff ends).
void result_block(const GateUpArgs &a, const Tiles &tiles, int64_t group_size, int64_t block,
                  int64_t token, int n_tokens, Fetch fetch) {
  const Q8Block *x = a.x + token * (a.n_cols / kBlock);
  const int64_t n = std::min<int64_t>(kBlock, a.d_ff - block * kBlock);
  alignas(64) float y[kMaxTokens][kBlock];
  alignas(64) float sums[kMaxTokens][2 * kLanes];
  for (int64_t i = 0; i < n; i += kLanes) {
    gate_and_up(a, tiles, group_size, (block * kBlock + i) / kLanes, x, n_tokens, fetch, sums);
    for (int m = 0; m < n_tokens; m++)
      store(y[m] + i, gated(a.activation, load(sums[m]), load(sums[m] + kLanes)));
  }
  for (int m = 0; m < n_tokens; m++) {
    const int64_t t = token + m;
    if (a.out) std::memcpy(a.out + t * a.d_ff + block * kBlock, y[m], size_t(n) * sizeof(float));
    if (a.out_q8) quantize_block(y[m], a.out_q8[t * (a.d_ff / kBlock) + block]);
  }
}

}  // namespace

void gate_up_of(const BlockFormat &format, const void *args, int part, int n_parts) {
  const GateUpArgs &a = *static_cast<const GateUpArgs *>(args);
  const Range mine = split((a.d_ff + kBlock - 1) / kBlock, part, n_parts);
  const int64_t size = format.group_bytes(a.n_cols);
  for_each_panel(mine, kBlock / kLanes, size, *a.n_tokens, a.n_cols,
                 [&](Range blocks, int64_t token, int n, Fetch fetch) {
                   for (int64_t block = blocks.begin; block < blocks.end; block++)
                     result_block(a, format.tiles[n - 1], size, block, token, n, fetch);
                 });
}
