// Replays a step program on the project's own threads: one call per forward pass, no GIL.
//
// Each call of a program is split into parts; threads take parts by an atomic counter, and a call
// is over when all its parts are done, whichever thread did them.  So a thread that the operating
// system has taken off its core delays only the part it holds: the others do the rest and go on.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "abi.h"

struct Call {
  Kernel function;
  const void *args;
  int32_t n_parts;
};

class Executor {
 public:
  // n_threads counts the caller of run(), which works too.  Raises std::invalid_argument if < 1.
  explicit Executor(int n_threads);
  ~Executor();
  Executor(const Executor &) = delete;
  Executor &operator=(const Executor &) = delete;

  // Runs the calls one after the other.  One caller at a time; the caller makes sure of it.  With
  // `call_ns`, the wall time of each call is written there.
  void run(const Call *calls, int n_calls, int64_t *call_ns = nullptr);
  int n_threads() const { return n_threads_; }

 private:
  // Parts handed out and parts finished of one call.
  struct Progress {
    std::atomic<int32_t> next{0};
    std::atomic<int32_t> done{0};
  };
  // The calls are a copy: a straggler may read them after the program itself is gone.
  struct Run {
    std::vector<Call> calls;
    std::vector<Progress> progress;
  };
  // A straggler may still walk through a run that the others have finished; its counters are
  // reused only kRuns runs later, and then only after it has left.
  static constexpr int kRuns = 4;
  struct Worker {
    std::thread thread;
    std::atomic<uint32_t> finished{0};  // the last run this worker has left
  };

  void start_workers();
  void work(int index);
  void walk(Run &run, int64_t *call_ns);
  void wait_until_left(uint32_t run_id);

  int n_threads_;
  int owner_pid_;
  Run runs_[kRuns];
  std::vector<std::unique_ptr<Worker>> workers_;
  std::atomic<uint32_t> current_{0};  // id of the newest run; a futex word
  std::atomic<int32_t> sleepers_{0};
  std::atomic<bool> stop_{false};
};
