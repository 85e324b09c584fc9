// The executor under random schedules: programs of random size with random numbers of parts, whose
// threads lose their core at random; many executors at once, one that several callers share,
// executors that end or change size between any two runs, and forks in the middle of a run.  What
// each call reads and writes is plain memory, so that a missing barrier is a wrong number here and
// a data race under ThreadSanitizer.  `make sanitize` runs it there and under AddressSanitizer, and
// the forks without either.
#include <sys/wait.h>

#include <cstdio>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "native/executor.cpp"

// ThreadSanitizer does not support threads that a forked child starts, and AddressSanitizer's
// allocator of GCC 12 may leave the child a lock that a thread of the parent held.  QEMU 7.2 ends
// when a forked child starts a thread.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define __SANITIZE_THREAD__  // GCC's name for it
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || defined(PYRO_EMULATED)
constexpr bool kForks = false;
#else
constexpr bool kForks = true;
#endif

namespace {

using Random = std::mt19937;

std::atomic<int> failures{0};
void check(bool holds, const char *what, unsigned seed) {
  if (holds) return;
  std::fprintf(stderr, "seed %u: %s\n", seed, what);
  failures++;
}

// One call: every part reads the whole row `index` and writes its share of the row after it.
struct Step {
  std::vector<uint64_t> *cells;
  int index, n_cells;
  uint32_t schedule;  // which parts dawdle, and how; 0: none
};

// Loses the core: some parts give it away, some sleep, some are late by more than the others spin.
void dawdle(uint32_t schedule, int part) {
  switch ((schedule >> (part % 8)) % 64) {
    case 1:
    case 2:
    case 3:
      return std::this_thread::yield();
    case 4:
    case 5:
      usleep(20);
      return;
    case 6:
      usleep(2 * kSpinNs / 1000);
      return;
  }
}

template <int kFactor>
void mix(const void *args, int part, int n_parts) {
  const Step &a = *static_cast<const Step *>(args);
  const uint64_t *before = a.cells->data() + size_t(a.index) * a.n_cells;
  uint64_t *after = a.cells->data() + size_t(a.index + 1) * a.n_cells;
  if (a.schedule) dawdle(a.schedule, part);
  uint64_t sum = 0;
  for (int i = 0; i < a.n_cells; i++) sum = sum * kFactor + before[i];
  const int first = int(int64_t(a.n_cells) * part / n_parts);
  const int last = int(int64_t(a.n_cells) * (part + 1) / n_parts);
  for (int i = first; i < last; i++) after[i] = sum + i;
  if (a.schedule) dawdle(a.schedule >> 9, part);
}

// A program of random size, run once by an executor and once in one part after the other.
void one_run(Executor &executor, Random &random, unsigned seed) {
  const int n_calls = int(random() % 10), n_cells = 1 + int(random() % 20);
  std::vector<uint64_t> cells(size_t(n_calls + 1) * n_cells, 1), expected = cells;
  const int64_t counts[] = {0, 1, 2, kFewTokens, kFewTokens + 1};
  std::vector<Step> steps, serial;
  for (int i = 0; i < n_calls; i++) {
    steps.push_back({&cells, i, n_cells, uint32_t(random())});
    serial.push_back({&expected, i, n_cells, 0});
  }
  std::vector<Call> calls;
  for (int i = 0; i < n_calls; i++) {
    calls.push_back({mix<31>, &steps[i], 1 + int32_t(random() % 9)});
    if (random() % 3 == 0) {
      calls[i].many = mix<37>;
      calls[i].n_tokens = &counts[random() % 5];
    }
    if (random() % 2) calls[i].n_items = &counts[random() % 5];
    const bool is_many = calls[i].many && *calls[i].n_tokens > kFewTokens;
    (is_many ? mix<37> : mix<31>)(&serial[i], 0, 1);
  }
  Trace trace(executor.n_threads(), 100, 1);
  const bool traced = random() % 4 == 0;
  if (traced) executor.set_trace(&trace);
  executor.run(calls.data(), n_calls);
  if (traced) executor.set_trace(nullptr);
  check(cells == expected, "another result than in one thread", seed);
  check(!traced || trace.runs_used == 1, "a run is missing in the trace", seed);
}

std::unique_ptr<Executor> random_executor(Random &random) {
  return std::make_unique<Executor>(1 + int(random() % 6));
}

// An executor that is replaced by one of another size now and then, asleep or not.
void one_caller(unsigned seed, int n_runs) {
  Random random(seed);
  auto executor = random_executor(random);
  for (int i = 0; i < n_runs; i++) {
    if (random() % 8 == 0) executor = random_executor(random);
    if (random() % 8 == 0) usleep(3 * kSpinNs / 1000);  // the workers fall asleep, or are about to
    one_run(*executor, random, seed);
  }
}

void callers_with_their_own(unsigned seed, int n_callers, int n_runs) {
  std::vector<std::thread> callers;
  for (int i = 0; i < n_callers; i++) callers.emplace_back(one_caller, seed + i, n_runs);
  for (std::thread &caller : callers) caller.join();
}

// One caller at a time, but not always the same one: what a run wrote, the next caller reads.
void callers_that_share(unsigned seed, int n_callers, int n_runs) {
  Executor executor(3);
  std::mutex turn;
  auto call = [&](unsigned own) {
    Random random(own);
    for (int i = 0; i < n_runs; i++) {
      std::lock_guard<std::mutex> lock(turn);
      one_run(executor, random, own);
    }
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < n_callers; i++) callers.emplace_back(call, seed + i);
  for (std::thread &caller : callers) caller.join();
}

// What a child does with the executors that it got: runs on one, which starts threads of its own,
// and ends both, of which one was in the middle of a run.
[[noreturn]] void in_the_child(std::unique_ptr<Executor> asleep, std::unique_ptr<Executor> idle,
                               std::unique_ptr<Executor> busy, Random random, unsigned seed) {
  alarm(60);  // a child that waits for threads of its parent would wait for ever
  failures = 0;
  asleep.reset();
  for (int i = 0; i < 5; i++) one_run(*idle, random, seed);
  if (random() % 2) one_run(*busy, random, seed);
  idle.reset();
  busy.reset();
  _exit(failures.load() != 0);
}

void forks(unsigned seed, int n_forks) {
  Random random(seed);
  for (int i = 0; i < n_forks; i++) {
    auto asleep = random_executor(random);  // as soon as its threads have spun in vain
    auto idle = random_executor(random), busy = random_executor(random);
    one_run(*idle, random, seed);
    std::atomic<bool> stop{false};
    std::thread other([&] {
      Random own(seed + i);
      while (!stop) one_run(*busy, own, seed);
    });
    usleep(3 * kSpinNs / 1000 + random() % 500);
    const pid_t child = fork();
    if (child == 0) in_the_child(std::move(asleep), std::move(idle), std::move(busy), random, seed);
    one_run(*idle, random, seed);  // the parent goes on
    int status = -1;
    check(child > 0 && waitpid(child, &status, 0) == child, "no child", seed);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child of a fork failed", seed);
    stop = true;
    other.join();
  }
}

}  // namespace

int main() {
  for (unsigned seed = 0; seed < 8; seed++) one_caller(seed, 200);
  callers_with_their_own(100, 4, 200);
  callers_that_share(200, 3, 200);
  if (kForks) forks(300, 12);
  std::printf(failures ? "%d failed\n" : "all passed\n", failures.load());
  return failures != 0;
}
