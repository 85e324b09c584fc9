// Which lines of the cache are fetched while a block is at work.
//
// A block of the cache is about a page long, and the CPU's prefetchers stop at a page's end, so the
// loops fetch further blocks themselves, a line for each that they read.  Into L2: a core waits for
// few lines of L1 at a time, 10 GB/s on Zen 4 (docs/decisions/0021).
//
// Intel's prefetchers run along several pages at once, and one page at a time does not keep memory
// busy: there the lines are those of four blocks in turn (docs/decisions/0046).
#pragma once

#include <cstdint>

#include "native/maker.h"

constexpr int kFetchedBlocks = 4;  // that lines are fetched from in turn
constexpr int kMostAhead = 2 * kFetchedBlocks;
// Blocks of keys; of so few, too large a part is read before the first four are fetched.
constexpr int64_t kShortRun = 8;

// What is fetched beside the steps over a block, `stride` bytes each: of one block, a step beside
// each; of four, beside every four steps one of each.
struct Fetch {
  int64_t n_blocks;
  const uint8_t *blocks[kFetchedBlocks];
  int64_t stride;
};

// The blocks that a part reads, in order; kMostAhead more than are read.
struct Blocks {
  const uint8_t *const *list;
  bool in_turn;          // lines of four blocks, or of one
  int64_t block_stride;  // to one that a prefetcher would reach by itself; 0: none

  // Beside block i, of n_steps.  A prefetcher on its way there is left alone: more requests only
  // hold it up.
  Fetch beside(int64_t i, int64_t n_steps, int64_t stride) const {
    Fetch fetch{1, {}, stride};
    if (in_turn) {
      const uint8_t *const *four = list + (i / kFetchedBlocks + 1) * kFetchedBlocks;
      const int64_t quarter = i % kFetchedBlocks * (n_steps / kFetchedBlocks) * stride;
      for (int64_t b = 0; b < kFetchedBlocks; b++) fetch.blocks[b] = four[b] + quarter;
      fetch.n_blocks = kFetchedBlocks;
    } else {
      const bool follows = block_stride != 0 && list[i + 1] - list[i] == block_stride;
      fetch.blocks[0] = list[follows ? i : i + 2];
    }
    return fetch;
  }
};
