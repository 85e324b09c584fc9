#include "executor.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// Spin this long before giving the core away: longer than Python needs between two tokens
// (at most 50 microseconds), short enough not to burn a core that somebody else could use.
constexpr int64_t kSpinNs = 100'000;

inline void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Spins until ready() holds or kSpinNs have passed; tells which.
template <class Ready>
bool spin(Ready ready) {
  int64_t deadline = 0;
  for (int turn = 0;; turn++) {
    if (ready()) return true;
    pause_cpu();
    if (turn % 64 == 63) {  // a clock read costs as much as a few dozen pauses
      int64_t now = now_ns();
      if (deadline == 0) deadline = now + kSpinNs;
      if (now > deadline) return false;
    }
  }
}

void futex_wait(std::atomic<uint32_t> &word, uint32_t seen) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}
void futex_wake_all(std::atomic<uint32_t> &word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

}  // namespace

Executor::Executor(int n_threads) : n_threads_(n_threads), owner_pid_(getpid()) {
  if (n_threads < 1) throw std::invalid_argument("n_threads must be at least 1");
  start_workers();
}

Executor::~Executor() {
  if (owner_pid_ != getpid()) {  // after a fork the threads exist in the parent only
    for (auto &worker : workers_) {
      worker->thread.detach();
      (void)worker.release();
    }
    return;
  }
  stop_.store(true);
  current_.fetch_add(1);
  futex_wake_all(current_);
  for (auto &worker : workers_) worker->thread.join();
}

void Executor::start_workers() {
  for (int i = 1; i < n_threads_; i++) {
    workers_.push_back(std::make_unique<Worker>());
    workers_.back()->finished.store(current_.load());
  }
  for (int i = 1; i < n_threads_; i++)
    workers_[i - 1]->thread = std::thread(&Executor::work, this, i - 1);
}

void Executor::wait_until_left(uint32_t run_id) {
  for (auto &worker : workers_) {
    auto left = [&] {
      return int32_t(worker->finished.load(std::memory_order_acquire) - run_id) >= 0;
    };
    while (!spin(left)) sched_yield();
  }
}

void Executor::run(const Call *calls, int n_calls, int64_t *call_ns) {
  if (owner_pid_ != getpid()) {  // forked: the child starts threads of its own
    for (auto &worker : workers_) {
      worker->thread.detach();
      (void)worker.release();
    }
    workers_.clear();
    owner_pid_ = getpid();
    sleepers_.store(0);
    start_workers();
  }
  uint32_t id = current_.load(std::memory_order_relaxed) + 1;
  wait_until_left(id - kRuns);
  Run &run = runs_[id % kRuns];
  run.calls.assign(calls, calls + n_calls);
  if (int(run.progress.size()) < n_calls) run.progress = std::vector<Progress>(n_calls);
  for (int i = 0; i < n_calls; i++) {
    run.progress[i].next.store(0, std::memory_order_relaxed);
    run.progress[i].done.store(0, std::memory_order_relaxed);
  }
  current_.store(id);  // sequentially consistent, like sleepers_: no wake-up can be missed
  if (sleepers_.load() > 0) futex_wake_all(current_);
  walk(run, call_ns);
}

void Executor::walk(Run &run, int64_t *call_ns) {
  int64_t start = call_ns ? now_ns() : 0;
  for (size_t i = 0; i < run.calls.size(); i++) {
    const Call &call = run.calls[i];
    Progress &progress = run.progress[i];
    for (;;) {
      int32_t part = progress.next.fetch_add(1, std::memory_order_relaxed);
      if (part >= call.n_parts) break;
      call.function(call.args, part, call.n_parts);
      progress.done.fetch_add(1, std::memory_order_release);
    }
    auto over = [&] { return progress.done.load(std::memory_order_acquire) >= call.n_parts; };
    while (!spin(over)) sched_yield();
    if (call_ns) {
      int64_t now = now_ns();
      call_ns[i] = now - start;
      start = now;
    }
  }
}

void Executor::work(int index) {
  Worker &self = *workers_[index];
  uint32_t seen = self.finished.load();
  for (;;) {
    auto news = [&] { return current_.load(std::memory_order_acquire) != seen; };
    if (!spin(news)) {
      sleepers_.fetch_add(1);
      while (current_.load() == seen) futex_wait(current_, seen);
      sleepers_.fetch_sub(1);
    }
    if (stop_.load()) return;
    // The newest run is the only one with work left: run() returns when all of its parts are done.
    seen = current_.load(std::memory_order_acquire);
    walk(runs_[seen % kRuns], nullptr);
    self.finished.store(seen, std::memory_order_release);
  }
}
