// Which lines of the cache attention fetches, on either maker's CPU: beside four blocks, every line
// of the next four once and nothing else; or, of one, the line as far into the block after the
// next.
#include "attention/cpp/fetch.h"

#include <cstdio>
#include <map>
#include <vector>

namespace {

int failures = 0;
#define CHECK(condition)                                                               \
  if (!(condition)) {                                                                  \
    std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
    failures++;                                                                        \
  }

// How often each address is fetched beside block i, in steps as attention's loops take them.
void fetch(const Blocks &blocks, int64_t i, int64_t n_steps, int64_t stride,
           std::map<const uint8_t *, int> &seen) {
  const Fetch fetch = blocks.beside(i, n_steps, stride);
  for (int64_t step = 0; step + fetch.n_blocks <= n_steps; step += fetch.n_blocks)
    for (int64_t b = 0; b < fetch.n_blocks; b++)
      seen[fetch.blocks[b] + step / fetch.n_blocks * stride]++;
}

struct Memory {
  std::vector<uint8_t> bytes;
  std::vector<const uint8_t *> list;

  Memory(int64_t n_blocks, int64_t apart) {
    bytes.resize(size_t((n_blocks + kMostAhead) * apart));
    for (int64_t i = 0; i < n_blocks + kMostAhead; i++) list.push_back(bytes.data() + i * apart);
  }
};

void four_blocks_in_turn(int64_t n_blocks, int64_t n_steps, int64_t stride) {
  const Memory memory(n_blocks, n_steps * stride + 192);
  const Blocks blocks{memory.list.data(), true, 0};
  std::map<const uint8_t *, int> seen;
  for (int64_t i = 0; i < n_blocks; i++) fetch(blocks, i, n_steps, stride, seen);
  for (int64_t i = 0; i < n_blocks + kMostAhead; i++)
    for (int64_t step = 0; step < n_steps; step++) {
      // The first four blocks come with no fetch; the last blocks at hand fetch a part of theirs.
      const int64_t four = i / kFetchedBlocks * kFetchedBlocks - kFetchedBlocks;
      const bool expected = four >= 0 && step < (n_blocks - four) * (n_steps / kFetchedBlocks) &&
                            step < n_steps / kFetchedBlocks * kFetchedBlocks;
      const auto found = seen.find(memory.list[size_t(i)] + step * stride);
      CHECK((found == seen.end() ? 0 : found->second) == (expected ? 1 : 0));
      if (found != seen.end()) seen.erase(found);
    }
  CHECK(seen.empty());
}

void one_block(int64_t n_steps, int64_t stride, bool follows) {
  const Memory memory(4, n_steps * stride);
  const Blocks blocks{memory.list.data(), false, follows ? n_steps * stride : 0};
  for (int64_t i = 0; i < 4; i++) {
    std::map<const uint8_t *, int> seen;
    fetch(blocks, i, n_steps, stride, seen);
    CHECK(int64_t(seen.size()) == n_steps);
    const uint8_t *block = memory.list[size_t(follows ? i : i + 2)];
    for (int64_t step = 0; step < n_steps; step++) CHECK(seen.count(block + step * stride) == 1);
  }
}

void a_gap_is_fetched_past() {
  Memory memory(4, 256);
  const Blocks blocks{memory.list.data(), false, 256};
  memory.list[2] = memory.list[6];
  std::map<const uint8_t *, int> seen;
  fetch(blocks, 1, 4, 64, seen);
  CHECK(seen.begin()->first == memory.list[3]);
}

}  // namespace

int main() {
  for (int64_t n_blocks = 1; n_blocks < 3 * kFetchedBlocks; n_blocks++)
    for (int64_t n_steps : {4, 32, 64, 66, 128}) four_blocks_in_turn(n_blocks, n_steps, 64);
  for (int64_t stride : {64, 128, 160})
    for (bool follows : {false, true}) one_block(32, stride, follows);
  a_gap_is_fetched_past();
  return failures != 0;
}
