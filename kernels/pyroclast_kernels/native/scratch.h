// Memory that a kernel lays things out in, lent to one part of one call.
//
// It belongs to the process, not to a thread: glibc takes a thread's thread-local data when the
// thread first touches it, and where the system refuses (ulimit -v) it ends the process.  Here
// everything is taken in advance by reserve_scratch(), which can say no.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>

// One block; whoever has set `taken` owns the other fields.
struct alignas(64) ScratchBlock {
  std::atomic<bool> taken{false};
  uint8_t *memory = nullptr;
  int64_t size = 0;

  bool take() {
    return !taken.load(std::memory_order_relaxed) &&
           !taken.exchange(true, std::memory_order_acquire);
  }
  void give_back() { taken.store(false, std::memory_order_release); }
  bool grow(int64_t n_bytes) {
    std::free(memory);  // first, so that the two are not there at once
    size = (n_bytes + 4095) / 4096 * 4096;
    memory = static_cast<uint8_t *>(std::aligned_alloc(4096, size_t(size)));
    if (!memory) size = 0;
    return memory;
  }
};

// More threads than these at work at once take memory of their own for each part.
constexpr int kScratchBlocks = 256;
constexpr int kTries = 1000;
inline ScratchBlock scratch_blocks[kScratchBlocks];
inline std::atomic<int> n_scratch_blocks{1};  // those that anybody has used yet come first

class ScratchMemory {
 public:
  ScratchMemory() = default;
  explicit ScratchMemory(int64_t n_bytes) { at_least(n_bytes); }
  ~ScratchMemory() {
    if (block_) block_->give_back();
  }
  ScratchMemory(const ScratchMemory &) = delete;
  ScratchMemory &operator=(const ScratchMemory &) = delete;

  // So many bytes, at a page's begin; what was in them is lost.
  uint8_t *at_least(int64_t n_bytes) {
    // More than one try: a thread may miss the block that is left over for it, where others take
    // and give back theirs while it looks.
    for (int i = 0; i < kTries; i++) {
      if (try_at_least(n_bytes)) return block_->memory;
      sched_yield();
    }
    std::fputs("pyroclast: no memory for a kernel\n", stderr);
    std::abort();  // a kernel has no way to report it
  }

  uint8_t *bytes() const { return block_->memory; }

  bool try_at_least(int64_t n_bytes) {
    if (block_ && block_->size >= n_bytes) return true;
    if (block_) block_->give_back();
    block_ = find(n_bytes);
    return block_->size >= n_bytes || block_->grow(n_bytes);
  }

 private:
  // A block that is large enough, or else one to grow.  A thread begins where it began the last
  // time, since that memory is in its core's caches.
  ScratchBlock *find(int64_t n_bytes) {
    const int n = n_scratch_blocks.load(std::memory_order_acquire);
    const int begin = int((uint64_t(pthread_self()) * 0x9e3779b97f4a7c15u >> 32) % uint64_t(n));
    ScratchBlock *small = nullptr;
    for (int i = 0; i < n; i++) {
      ScratchBlock *block = &scratch_blocks[begin + i < n ? begin + i : begin + i - n];
      if (!block->take()) continue;
      if (block->size >= n_bytes) {
        if (small) small->give_back();
        return block;
      }
      if (small) block->give_back();
      if (!small) small = block;
    }
    return small ? small : further(n);
  }

  ScratchBlock *further(int n) {
    for (int i = n; i < kScratchBlocks; i++) {
      if (!scratch_blocks[i].take()) continue;
      int known = n_scratch_blocks.load();
      while (known <= i && !n_scratch_blocks.compare_exchange_weak(known, i + 1)) {
      }
      return &scratch_blocks[i];
    }
    own_.reset(new (std::nothrow) Own);
    if (!own_) std::abort();
    return own_.get();
  }

  struct Own : ScratchBlock {
    ~Own() { std::free(memory); }
  };
  std::unique_ptr<Own> own_;
  ScratchBlock *block_ = nullptr;
};

// Takes memory for so many threads at once, of so many bytes each, and keeps it: of no fewer than
// were asked for before, since any thread may take any block.  False where the system refuses.
inline bool reserve_scratch(int n_threads, int64_t n_bytes) {
  static std::atomic<int64_t> most{0};
  n_bytes = std::max(n_bytes, most.load());
  std::unique_ptr<ScratchMemory[]> all(new (std::nothrow) ScratchMemory[size_t(n_threads)]);
  if (!all) return false;
  for (int i = 0; i < n_threads; i++)
    if (!all[size_t(i)].try_at_least(n_bytes)) return false;
  int64_t known = most.load();
  while (known < n_bytes && !most.compare_exchange_weak(known, n_bytes)) {
  }
  return true;
}
