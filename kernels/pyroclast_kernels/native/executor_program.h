// A recorded program and a recording of its runs, on an executor that they share.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "executor.h"

// A recorded list of calls.  The addresses belong to the caller, who keeps them alive.
class Program {
 public:
  using Addresses = std::vector<uintptr_t>;

  // many and n_tokens, and n_items: as long as functions, or empty.  Raises std::invalid_argument.
  Program(std::shared_ptr<Executor> executor, const Addresses &functions, const Addresses &args,
          const std::vector<int32_t> &parts, const Addresses &many, const Addresses &n_tokens,
          const Addresses &n_items)
      : executor_(std::move(executor)) {
    if (functions.size() != args.size() || args.size() != parts.size())
      throw std::invalid_argument("functions, args and parts must have one length");
    if (many.size() != n_tokens.size() || (!many.empty() && many.size() != functions.size()))
      throw std::invalid_argument("many and n_tokens must be empty or as long as functions");
    if (!n_items.empty() && n_items.size() != functions.size())
      throw std::invalid_argument("n_items must be empty or as long as functions");
    for (size_t i = 0; i < functions.size(); i++) {
      if (!functions[i] || parts[i] < 1)
        throw std::invalid_argument("a call needs a function address and at least one part");
      calls_.push_back({reinterpret_cast<Kernel>(functions[i]),
                        reinterpret_cast<const void *>(args[i]), parts[i]});
      if (!n_items.empty()) calls_.back().n_items = reinterpret_cast<const int64_t *>(n_items[i]);
      if (many.empty() || !many[i]) continue;
      if (!n_tokens[i]) throw std::invalid_argument("a call with two kernels needs n_tokens");
      calls_.back().many = reinterpret_cast<Kernel>(many[i]);
      calls_.back().n_tokens = reinterpret_cast<const int64_t *>(n_tokens[i]);
    }
  }

  // Raises std::out_of_range unless [begin, end) are calls of this program.
  void check(long begin, long end) const {
    if (begin < 0 || end < begin || end > long(calls_.size()))
      throw std::out_of_range("no such calls in this program");
  }
  // Runs the checked calls [begin, end) and returns the nanoseconds it took.
  int64_t run(long begin, long end) {
    auto start = std::chrono::steady_clock::now();
    executor_->run(calls_.data() + begin, int(end - begin));
    auto took = std::chrono::steady_clock::now() - start;
    return std::chrono::duration_cast<std::chrono::nanoseconds>(took).count();
  }
  size_t size() const { return calls_.size(); }

 private:
  std::shared_ptr<Executor> executor_;
  std::vector<Call> calls_;
};

// Records every run of an executor from start() to stop().  One at a time for each executor.
class Recording {
 public:
  Recording(std::shared_ptr<Executor> executor, size_t spans_per_thread, size_t n_runs)
      : executor_(std::move(executor)), trace_(executor_->n_threads(), spans_per_thread, n_runs) {}
  ~Recording() { stop(); }
  Recording(const Recording &) = delete;
  Recording &operator=(const Recording &) = delete;

  void start() {
    if (on_) return;
    executor_->set_trace(&trace_);
    on_ = true;
  }
  void stop() {
    if (on_) executor_->set_trace(nullptr);
    on_ = false;
  }
  // The bytes of all PartSpans, thread after thread, each thread's in order.
  std::string spans() const {
    std::string all;
    for (const Trace::Lane &lane : trace_.lanes)
      all.append(reinterpret_cast<const char *>(lane.spans.get()), lane.used * sizeof(PartSpan));
    return all;
  }
  // The bytes of all RunSpans.
  std::string runs() const {
    return {reinterpret_cast<const char *>(trace_.runs.data()), trace_.runs_used * sizeof(RunSpan)};
  }
  int64_t n_dropped() const {
    int64_t n = trace_.n_dropped;
    for (const Trace::Lane &lane : trace_.lanes) n += lane.n_dropped;
    return n;
  }

 private:
  std::shared_ptr<Executor> executor_;
  Trace trace_;
  bool on_ = false;
};
