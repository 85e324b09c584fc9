// Scratch memory from many threads: no block is lent twice, what was reserved is found without
// further memory, and what is refused is said.
#include "native/scratch.h"

#include <sys/resource.h>

#include <cstring>
#include <thread>
#include <vector>

namespace {

std::atomic<int> failures{0};
void check(bool holds, const char *what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  failures++;
}

// Fills what it is lent, and finds it as it left it.
void work(int thread, int n_rounds) {
  for (int round = 0; round < n_rounds; round++) {
    const size_t n_bytes = size_t(1) << (8 + (thread + round) % 10);
    ScratchMemory one(int64_t{64}), other;
    std::memset(one.bytes(), thread, 64);
    uint8_t *at = other.at_least(int64_t(n_bytes));
    std::memset(at, thread + 1, n_bytes);
    std::this_thread::yield();
    for (size_t i = 0; i < 64; i++) check(one.bytes()[i] == uint8_t(thread), "lent twice");
    for (size_t i = 0; i < n_bytes; i += 64) check(at[i] == uint8_t(thread + 1), "lent twice");
  }
}

void many_threads() {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; i++) threads.emplace_back(work, i, 400);
  for (std::thread &each : threads) each.join();
  check(n_scratch_blocks.load() <= 17, "more blocks than were ever lent at once");
}

void more_than_there_are() {
  std::vector<std::unique_ptr<ScratchMemory>> all;
  for (int i = 0; i < kScratchBlocks + 3; i++) {
    all.push_back(std::make_unique<ScratchMemory>(4096));
    std::memset(all.back()->bytes(), i, 4096);
  }
  for (size_t i = 0; i < all.size(); i++)
    check(all[i]->bytes()[4095] == uint8_t(i), "lent twice beyond the table");
}

// What is reserved for a model with small blocks is enough for one with large ones beside it.
void reserved_for_all() {
  constexpr int64_t kBytes = 1 << 20;
  check(reserve_scratch(2, kBytes), "2 MiB refused");
  check(reserve_scratch(6, 4096), "24 KiB refused");
  ScratchMemory lent[6];
  for (ScratchMemory &each : lent) each.at_least(4096);
  int n_large = 0;
  for (const ScratchBlock &block : scratch_blocks) n_large += block.size >= kBytes;
  check(n_large >= 6, "any thread may take any block, so all must be large");
}

// In the last place: from here on the process has little memory.
void reserved() {
  constexpr int64_t kBytes = 3 << 20;
  check(reserve_scratch(4, kBytes), "12 MiB refused");
  rlimit limit{};
  getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = 1;
  setrlimit(RLIMIT_AS, &limit);
  check(!reserve_scratch(5, 64 * kBytes), "320 times 3 MiB granted where there is no memory");
  ScratchMemory lent[3];
  for (ScratchMemory &each : lent) check(each.try_at_least(kBytes), "reserved, and not there");
}

}  // namespace

int main() {
  many_threads();
  more_than_there_are();
  reserved_for_all();
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)  // these need address space
  reserved();
#endif
  if (failures) return 1;
  std::puts("ok");
}
