#include "executor.h"

#include <sched.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <string>
#include <system_error>

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
#elif defined(__aarch64__)
  asm volatile("isb");  // `yield`, made for this, takes one cycle on the CPUs there are
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

}  // namespace

Trace::Trace(int n_threads, size_t spans_per_thread, size_t n_runs)
    : lanes(n_threads), runs(n_runs) {
  for (Lane &lane : lanes) {
    lane.spans.reset(new PartSpan[spans_per_thread]);  // not zeroed: most of it is never touched
    lane.size = spans_per_thread;
  }
}

bool Trace::has_room() {
  if (runs_used < runs.size()) return true;
  n_dropped++;
  return false;
}

void Trace::Lane::add(const PartSpan &span) {
  if (used < size)
    spans[used++] = span;
  else
    n_dropped++;
}

Executor::Executor(int n_threads)
    : n_threads_(n_threads), owner_pid_(getpid()), runs_(new Run[kRuns]) {
  if (n_threads < 1) throw std::invalid_argument("n_threads must be at least 1");
  start_workers();
  n_live_threads_ += n_threads;
}

Executor::~Executor() {
  n_live_threads_ -= n_threads_;
  if (owner_pid_ != getpid())
    forget_parent();
  else
    stop_workers();
}

// After a fork the threads exist in the parent only, and they may have been in the middle of a run:
// what they were changing is left as it is.  Their handles are not even detached: the C library has
// given their stacks, where the handles point, to whatever thread the child started since.
void Executor::forget_parent() {
  for (auto &worker : workers_) (void)worker.release();
  workers_.clear();
  (void)runs_.release();
  current_.forget_sleepers();  // or its destructor would wait for them
}

// Either all threads run afterwards, or none: then it throws std::runtime_error.
void Executor::start_workers() {
  for (int i = 1; i < n_threads_; i++) {
    workers_.push_back(std::make_unique<Worker>());
    workers_.back()->finished.store(current_.load());
  }
  for (int i = 1; i < n_threads_; i++) {
    try {
      workers_[i - 1]->thread = std::thread(&Executor::work, this, i - 1);
    } catch (const std::system_error &error) {
      stop_workers();
      throw std::runtime_error("only " + std::to_string(i) + " of " + std::to_string(n_threads_) +
                               " threads could be started (" + error.what() + ")");
    }
  }
}

void Executor::stop_workers() {
  stop_.store(true);
  current_.fetch_add(1);
  current_.wake_all();
  for (auto &worker : workers_)
    if (worker->thread.joinable()) worker->thread.join();
  workers_.clear();
  stop_.store(false);
}

void Executor::wait_until_left(uint32_t run_id) {
  for (auto &worker : workers_) {
    auto left = [&] {
      return int32_t(worker->finished.load(std::memory_order_acquire) - run_id) >= 0;
    };
    while (!spin(left)) sched_yield();
  }
}

// A thread that has spun in vain sleeps.  Another thread has then lost its core in the middle of a
// part, and the operating system can move that one to the core that falls idle.
void Executor::Progress::wait() {
  if (spin([&] { return over.load(std::memory_order_acquire) != 0; })) return;
  sleepers.fetch_add(1);  // sequentially consistent, like the store to `over`: no wake-up is missed
  while (over.load() == 0) over.wait(0);
  sleepers.fetch_sub(1);
}

void Executor::Progress::set_over() {
  over.store(1);
  if (sleepers.load() > 0) over.wake_all();
}

void Executor::run(const Call *calls, int n_calls) {
  if (owner_pid_ != getpid()) {  // forked: the child starts threads of its own
    forget_parent();
    runs_.reset(new Run[kRuns]);
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
    run.progress[i].over.store(0, std::memory_order_relaxed);
  }
  run.trace = trace_ && trace_->has_room() ? trace_ : nullptr;
  if (!run.trace) {
    publish(id);
    return walk<false>(run, 0);
  }
  int64_t begin = now_ns();
  run.trace_run = int32_t(run.trace->runs_used);
  publish(id);
  walk<true>(run, 0);
  run.trace->runs[run.trace->runs_used++] = {begin, now_ns()};
}

void Executor::publish(uint32_t id) {
  current_.store(id);  // sequentially consistent, like sleepers_: no wake-up can be missed
  if (sleepers_.load() > 0) current_.wake_all();
}

template <bool traced>
void Executor::run_part(Run &run, int call, int part, int n_parts, int thread) {
  int64_t begin = traced ? now_ns() : 0;
  run.calls[call].run(part, n_parts);
  // Before the part counts as done: when run() returns, the trace is complete and nobody
  // writes it any more.  A straggler gets no part, and so never looks at the trace.
  if (traced)
    run.trace->lanes[thread].add({run.trace_run, int32_t(call), part, thread, begin, now_ns()});
}

// All parts of `call` are done: the calls after it that have one item each, then everybody goes on.
template <bool traced>
void Executor::finish(Run &run, int call, int thread) {
  const int n_calls = int(run.calls.size());
  int last = call;
  while (last + 1 < n_calls && run.calls[last + 1].is_single()) {
    last++;
    run.progress[last].next.store(run.calls[last].n_parts, std::memory_order_relaxed);
    run_part<traced>(run, last, 0, 1, thread);
  }
  for (; call <= last; call++) run.progress[call].set_over();
}

template <bool traced>
void Executor::walk(Run &run, int thread) {
  for (int i = 0; i < int(run.calls.size()); i++) {
    const int n_parts = run.calls[i].n_parts;
    Progress &progress = run.progress[i];
    for (;;) {
      int32_t part = progress.next.fetch_add(1, std::memory_order_relaxed);
      if (part >= n_parts) break;
      run_part<traced>(run, i, part, n_parts, thread);
      // Acquire as well: whoever is last has seen what all parts wrote, and may read it.
      if (progress.done.fetch_add(1, std::memory_order_acq_rel) == n_parts - 1)
        finish<traced>(run, i, thread);
    }
    progress.wait();
  }
}

void Executor::work(int index) {
  Worker &self = *workers_[index];
  uint32_t seen = self.finished.load();
  for (;;) {
    auto news = [&] { return current_.load(std::memory_order_acquire) != seen; };
    if (!spin(news)) {
      sleepers_.fetch_add(1);
      while (current_.load() == seen) current_.wait(seen);
      sleepers_.fetch_sub(1);
    }
    if (stop_.load()) return;
    // The newest run is the only one with work left: run() returns when all of its parts are done.
    seen = current_.load(std::memory_order_acquire);
    Run &run = runs_[seen % kRuns];
    if (run.trace)
      walk<true>(run, index + 1);
    else
      walk<false>(run, index + 1);
    self.finished.store(seen, std::memory_order_release);
  }
}
