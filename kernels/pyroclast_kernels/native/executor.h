// Replays a step program on the project's own threads: one call per forward pass, no GIL.
//
// Each call of a program is split into parts; threads take parts by an atomic counter, and a call
// is over when all its parts are done, whichever thread did them.  So a thread that the operating
// system has taken off its core delays only the part it holds: the others do the rest and go on.
// A call with one item of work (the norm of a single token) needs no barrier before it: the thread
// that finishes the call before it runs it at once, and the threads meet after it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "abi.h"
#include "wait_word.h"

constexpr int64_t kFewTokens = 16;  // tables.py mirrors it

struct Call {
  Kernel function;
  const void *args;
  int32_t n_parts;
  // Another kernel for more than kFewTokens tokens, of which there are *n_tokens; null if none.
  Kernel many = nullptr;
  const int64_t *n_tokens = nullptr;
  // How many items there are to share, each done by one thread; null if that does not matter.
  const int64_t *n_items = nullptr;

  bool is_single() const { return n_items && *n_items <= 1; }
  void run(int part, int parts) const {
    (many && *n_tokens > kFewTokens ? many : function)(args, part, parts);
  }
};

// What one thread did with one part; times of std::chrono::steady_clock.
struct PartSpan {
  int32_t run;   // counted from the start of the trace
  int32_t call;  // of that run's calls
  int32_t part;
  int32_t thread;  // 0 is the caller of run()
  int64_t begin_ns, end_ns;
};

// One run(), from when to when.
struct RunSpan {
  int64_t begin_ns, end_ns;
};

// A recording of runs.  All memory is taken before it begins (its pages when they are first
// written); each thread writes a lane of its own, so that recording needs no lock and shares no
// cache line.  What no longer fits is counted.
struct Trace {
  struct alignas(64) Lane {
    std::unique_ptr<PartSpan[]> spans;
    size_t size = 0, used = 0;
    int64_t n_dropped = 0;

    void add(const PartSpan &span);
  };
  Trace(int n_threads, size_t spans_per_thread, size_t n_runs);
  bool has_room();  // for one more run; counts it as dropped if not

  std::vector<Lane> lanes;
  std::vector<RunSpan> runs;
  size_t runs_used = 0;
  int64_t n_dropped = 0;  // runs
};

class Executor {
 public:
  // n_threads counts the caller of run(), which works too.  Raises std::invalid_argument if < 1,
  // std::runtime_error if so many cannot be started; those that were have ended by then.
  explicit Executor(int n_threads);
  ~Executor();
  Executor(const Executor &) = delete;
  Executor &operator=(const Executor &) = delete;

  // Runs the calls one after the other.  One caller at a time; the caller makes sure of it.  The
  // first run after a fork starts threads, and raises like the constructor.
  void run(const Call *calls, int n_calls);
  // From the next run on, every part goes into `trace`, until it is set to null: 50 ns a part on
  // Zen 4, and one branch a run when it is off.  Not while a run is going on.
  void set_trace(Trace *trace) { trace_ = trace; }
  int n_threads() const { return n_threads_; }
  // Of all executors that there are.
  static int n_live_threads() { return n_live_threads_.load(); }

 private:
  static inline std::atomic<int> n_live_threads_{0};

  // Parts handed out and parts finished of one call, and whether the threads may go on.
  struct Progress {
    std::atomic<int32_t> next{0};
    std::atomic<int32_t> done{0};
    WaitWord over{0};
    std::atomic<int32_t> sleepers{0};

    void wait();
    void set_over();
  };
  // The calls are a copy: a straggler may read them after the program itself is gone.
  struct Run {
    std::vector<Call> calls;
    std::vector<Progress> progress;
    Trace *trace = nullptr;
    int32_t trace_run = 0;
  };
  // A straggler may still walk through a run that the others have finished; its counters are
  // reused only kRuns runs later, and then only after it has left.
  static constexpr int kRuns = 4;
  struct Worker {
    std::thread thread;
    std::atomic<uint32_t> finished{0};  // the last run this worker has left
  };

  void start_workers();
  void stop_workers();
  void forget_parent();
  void work(int index);
  void publish(uint32_t id);
  template <bool traced>
  void walk(Run &run, int thread);
  template <bool traced>
  void run_part(Run &run, int call, int part, int n_parts, int thread);
  template <bool traced>
  void finish(Run &run, int call, int thread);
  void wait_until_left(uint32_t run_id);

  int n_threads_;
  int owner_pid_;
  std::unique_ptr<Run[]> runs_;
  std::vector<std::unique_ptr<Worker>> workers_;
  Trace *trace_ = nullptr;
  WaitWord current_{0};  // id of the newest run
  std::atomic<int32_t> sleepers_{0};
  std::atomic<bool> stop_{false};
};
