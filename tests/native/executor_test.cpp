// The executor alone: every part exactly once, calls in order, programs that die early, idle
// threads that sleep and wake, and more threads than cores.  Run under AddressSanitizer and
// UndefinedBehaviorSanitizer by `make sanitize`.
#include "native/executor.cpp"

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

void empty_programs_and_timing() {
  Executor executor(2);
  executor.run(nullptr, 0);
  std::vector<std::atomic<int>> seen(3);
  std::atomic<int> order{0};
  CountArgs args{&seen, &order, 0};
  Call call{count, &args, 3};
  int64_t call_ns = -1;
  executor.run(&call, 1, &call_ns);
  CHECK(call_ns >= 0);
}

}  // namespace

int main() {
  for (int n_threads : {1, 2, 3, 8}) every_part_once(n_threads, 7, 5, 60, 0);
  every_part_once(2, 1, 1, 300, 0);
  every_part_once(2, 3, 4, 20, 1000);                 // the workers are asleep between two runs
  for (int i = 0; i < 30; i++) Executor executor(4);  // threads that never got work
  empty_programs_and_timing();
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
