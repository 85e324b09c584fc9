// A number that threads can sleep on until it changes: Linux's futex, or elsewhere, and where
// PYRO_NO_FUTEX is defined, a mutex and a condition variable beside the number.
#pragma once

#include <atomic>
#include <cstdint>

#if defined(__linux__) && !defined(PYRO_NO_FUTEX)
#define PYRO_FUTEX 1
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define PYRO_FUTEX 0
#include <condition_variable>
#include <mutex>
#include <new>
#endif

// Whoever changes it says so by wake_all(), unless it knows that nobody sleeps.
class WaitWord : public std::atomic<uint32_t> {
 public:
  using std::atomic<uint32_t>::atomic;

#if PYRO_FUTEX
  // Sleeps while the number is `seen`; may return before that.
  void wait(uint32_t seen) {
    syscall(SYS_futex, this, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
  }
  void wake_all() { syscall(SYS_futex, this, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0); }
  // In a child after a fork, where nobody sleeps whatever the parent's threads were doing.
  void forget_sleepers() {}
#else
  void wait(uint32_t seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (load() == seen) changed_.wait(lock);
  }
  void wake_all() {
    // Who has seen the old number, but does not sleep yet, holds the lock.
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }
    changed_.notify_all();
  }
  void forget_sleepers() {  // no destructors: they would wait for threads that are not there
    new (&mutex_) std::mutex;
    new (&changed_) std::condition_variable;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
#endif
};
static_assert(!PYRO_FUTEX || sizeof(WaitWord) == sizeof(uint32_t), "a futex is one word");
