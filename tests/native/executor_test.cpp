// The executor alone: every part exactly once, calls in order, programs that die early, idle
// threads that sleep and wake, more threads than cores, traces, calls with two kernels, and calls
// of one item.  Run under AddressSanitizer and UndefinedBehaviorSanitizer by `make sanitize`.
#include "native/executor.cpp"

#include <algorithm>
#include <cstdio>
#include <memory>

namespace {

int failures = 0;
#define CHECK(condition)                                                               \
  if (!(condition)) {                                                                  \
    std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
    failures++;                                                                        \
  }

struct CountArgs {
  std::vector<std::atomic<int>> *seen;  // how often each part ran
  std::atomic<int> *order;              // a call may start only when the one before it is over
  int64_t index;
};

void count(const void *args, int part, int n_parts) {
  const CountArgs &a = *static_cast<const CountArgs *>(args);
  (*a.seen)[part].fetch_add(1);
  if (a.order->load() / n_parts != a.index) failures++;
  a.order->fetch_add(1);
}

// Runs n_calls calls of n_parts parts n_runs times, with a new program for each run.
void every_part_once(int n_threads, int n_calls, int n_parts, int n_runs, int idle_us) {
  Executor executor(n_threads);
  for (int run = 0; run < n_runs; run++) {
    std::vector<std::vector<std::atomic<int>>> seen(n_calls);
    std::atomic<int> order{0};
    std::vector<CountArgs> args;
    auto calls = std::make_unique<std::vector<Call>>();
    for (int i = 0; i < n_calls; i++) {
      seen[i] = std::vector<std::atomic<int>>(n_parts);
      args.push_back({&seen[i], &order, i});
    }
    for (CountArgs &a : args) calls->push_back({count, &a, n_parts});
    executor.run(calls->data(), n_calls);
    calls.reset();  // stragglers must not look at it
    for (auto &call : seen)
      for (auto &times : call) CHECK(times.load() == 1);
    CHECK(order.load() == n_calls * n_parts);
    if (idle_us) usleep(idle_us);
  }
}

void empty_programs() {
  Executor executor(2);
  executor.run(nullptr, 0);
  std::vector<std::atomic<int>> seen(3);
  std::atomic<int> order{0};
  CountArgs args{&seen, &order, 0};
  Call call{count, &args, 3};
  executor.run(&call, 1);
  CHECK(order.load() == 3);
}

void nothing(const void *, int, int) {}

// Every part once, on one thread at a time, inside its run and behind the call before it.
void check_spans(const Trace &trace, int n_runs, int n_calls, int n_parts) {
  std::vector<std::vector<PartSpan>> by_call(n_runs * n_calls);
  for (size_t thread = 0; thread < trace.lanes.size(); thread++) {
    int64_t before = 0;
    for (size_t i = 0; i < trace.lanes[thread].used; i++) {
      const PartSpan &span = trace.lanes[thread].spans[i];
      CHECK(span.thread == int(thread) && before <= span.begin_ns && span.begin_ns <= span.end_ns);
      before = span.end_ns;
      by_call[span.run * n_calls + span.call].push_back(span);
    }
  }
  for (int run = 0; run < n_runs; run++) {
    int64_t barrier = trace.runs[run].begin_ns;
    for (int call = 0; call < n_calls; call++) {
      std::vector<int> seen(n_parts);
      int64_t end = barrier;
      for (const PartSpan &span : by_call[run * n_calls + call]) {
        seen[span.part]++;
        CHECK(span.begin_ns >= barrier);
        end = std::max(end, span.end_ns);
      }
      for (int times : seen) CHECK(times == 1);
      barrier = end;
    }
    CHECK(barrier <= trace.runs[run].end_ns);
  }
}

void traces(int n_threads) {
  const int n_runs = 20, n_calls = 6, n_parts = 5;
  Executor executor(n_threads);
  std::vector<Call> calls(n_calls, Call{nothing, nullptr, n_parts});
  Trace trace(n_threads, n_runs * n_calls * n_parts, n_runs);
  executor.run(calls.data(), n_calls);  // not on yet
  executor.set_trace(&trace);
  for (int i = 0; i < n_runs; i++) executor.run(calls.data(), n_calls);
  executor.set_trace(nullptr);
  executor.run(calls.data(), n_calls);  // off again
  CHECK(int(trace.runs_used) == n_runs && trace.n_dropped == 0);
  check_spans(trace, n_runs, n_calls, n_parts);
}

// What has no room is counted, and nothing is written behind the end.
void full_traces() {
  Executor executor(1);
  std::vector<Call> calls(2, Call{nothing, nullptr, 3});
  Trace trace(1, 4, 2);
  executor.set_trace(&trace);
  for (int i = 0; i < 3; i++) executor.run(calls.data(), 2);
  CHECK(trace.runs_used == 2 && trace.n_dropped == 1);
  CHECK(trace.lanes[0].used == 4 && trace.lanes[0].n_dropped == 2 * 6 - 4);
}

void add_one(const void *args, int, int) { ++**static_cast<int *const *>(args); }
void add_hundred(const void *args, int, int) { **static_cast<int *const *>(args) += 100; }

// In each run the count decides which of two kernels a call takes.
void two_kernels() {
  Executor executor(2);
  int sum = 0, *args = &sum;
  int64_t n_tokens = kFewTokens;
  Call call{add_one, &args, 1, add_hundred, &n_tokens};
  executor.run(&call, 1);
  CHECK(sum == 1);
  n_tokens++;
  executor.run(&call, 1);
  CHECK(sum == 101);
}

// What call `index` of `size` calls saw: plain memory, so that a race shows under a sanitizer.
struct Sum {
  std::vector<int64_t> *values;  // one for each part of the call before, then this call's own
  int index;
};
constexpr int kParts = 4;

void add_parts(const void *args, int part, int n_parts) {
  const Sum &a = *static_cast<const Sum *>(args);
  int64_t before = 0;
  for (int i = 0; i < kParts; i++) before += (*a.values)[size_t(a.index) * kParts + i];
  // A part of one of one takes all shares.
  for (int i = part * kParts / n_parts; i < (part + 1) * kParts / n_parts; i++)
    (*a.values)[size_t(a.index + 1) * kParts + i] = before + 1;
}

// Calls of one item run once, whole, after the call before them and before the one behind; with two
// items they are shared like any other.
void single_items(int n_threads, int64_t count) {
  const int n_calls = 9;
  const int64_t n_items = count;
  Executor executor(n_threads);
  Trace trace(n_threads, 400 * n_calls * kParts, 400);
  executor.set_trace(&trace);
  for (int run = 0; run < 400; run++) {
    std::vector<int64_t> values((n_calls + 1) * kParts);
    std::vector<Sum> args;
    std::vector<Call> calls;
    for (int i = 0; i < n_calls; i++) args.push_back({&values, i});
    for (int i = 0; i < n_calls; i++) {
      calls.push_back({add_parts, &args[i], kParts});
      if (i % 4 != 1) calls.back().n_items = &n_items;  // the first, the last, and three in a row
    }
    executor.run(calls.data(), n_calls);
    int64_t expected = 0;
    for (int i = 1; i <= n_calls; i++) {
      expected = expected * kParts + 1;
      for (int part = 0; part < kParts; part++) CHECK(values[i * kParts + part] == expected);
    }
  }
  executor.set_trace(nullptr);
  size_t n_spans = 0;
  for (const Trace::Lane &lane : trace.lanes) n_spans += lane.used;
  const size_t n_single = count > 1 ? 0 : 6;  // the first call has nobody before it
  CHECK(n_spans == 400 * (n_single + (n_calls - n_single) * kParts));
}

}  // namespace

int main() {
  for (int n_threads : {1, 2, 3, 8}) every_part_once(n_threads, 7, 5, 60, 0);
  every_part_once(2, 1, 1, 300, 0);
  every_part_once(2, 3, 4, 20, 1000);                 // the workers are asleep between two runs
  for (int i = 0; i < 30; i++) Executor executor(4);  // threads that never got work
  empty_programs();
  for (int n_threads : {1, 2, 5}) traces(n_threads);
  full_traces();
  two_kernels();
  for (int n_threads : {1, 2, 5})
    for (int64_t n_items : {0, 1, 2}) single_items(n_threads, n_items);
  bool refused = false;
  try {
    Executor none(0);
  } catch (const std::invalid_argument &) {
    refused = true;
  }
  CHECK(refused);
  std::printf(failures ? "%d failed\n" : "all passed\n", failures);
  return failures != 0;
}
