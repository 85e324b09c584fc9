#include "executor_mapping.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <stdexcept>
#include <system_error>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14; older headers lack it, older kernels refuse it
#endif

namespace {

// The handler reads these at any moment, so they are plain atomics; only the thread that holds
// `slots_mutex` writes begin and end.  begin 0: free.
struct Slot {
  std::atomic<uintptr_t> begin{0}, end{0};
  std::atomic<bool> is_lost{false};
};
Slot slots[Mapping::kMappings];
std::mutex slots_mutex;

// The handlers that were there before ours, each time that it was installed, oldest first.
constexpr int kHandlers = 8;
struct sigaction handlers[kHandlers];
std::atomic<int> n_handlers{0};

void use_default(int signal) {
  struct sigaction usual = {};
  usual.sa_handler = SIG_DFL;
  sigaction(signal, &usual, nullptr);
}

// How many handlers a signal was passed on to already: a later one may know ours as the one before
// it, and pass the signal back.  That is noted in the unused end of the signal's own record, which
// the kernel zeroes: a variable would be wrong for other threads, and after a handler that leaves
// by a jump.
struct Passed {
  uint32_t mark, n;
};
constexpr uint32_t kMark = 0x70797269;
static_assert(sizeof(siginfo_t) >= 64 + sizeof(Passed), "the fields of a fault end before it");

Passed *passed_of(siginfo_t *info) {
  return reinterpret_cast<Passed *>(reinterpret_cast<char *>(info) + sizeof(siginfo_t)) - 1;
}

// Not ours: what would have happened without us.
void pass_on(int signal, siginfo_t *info, void *context) {
  Passed *passed = passed_of(info);
  const int n_passed = passed->mark == kMark ? int(passed->n) : 0;
  const int next = n_handlers.load() - 1 - n_passed;
  const bool is_sent = info->si_code <= 0;  // by kill() or raise(), so that nothing faults again
  const bool is_ignored = next >= 0 && handlers[next].sa_handler == SIG_IGN;
  if (next < 0 || is_ignored || handlers[next].sa_handler == SIG_DFL) {
    if (is_sent && is_ignored) return;
    use_default(signal);
    if (is_sent) raise(signal);  // blocked until we return
    return;                      // a fault happens again, and ends the process
  }
  *passed = {kMark, uint32_t(n_passed + 1)};
  if (handlers[next].sa_flags & SA_SIGINFO)
    handlers[next].sa_sigaction(signal, info, context);
  else
    handlers[next].sa_handler(signal);
  passed->n = uint32_t(n_passed);
  // faulthandler has said what it has to say, put back whom it knows, and raised the signal again.
  sigset_t pending;
  if (sigpending(&pending) == 0 && sigismember(&pending, signal) == 1) use_default(signal);
}

void on_sigbus(int signal, siginfo_t *info, void *context) {
  const int saved_errno = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  // BUS_ADRERR: no page of the file, or one that the disk did not give.
  for (Slot &slot : slots) {
    if (info->si_code != BUS_ADRERR) break;
    const uintptr_t begin = slot.begin.load(), end = slot.end.load();
    if (begin == 0 || address < begin || address >= end) continue;
    slot.is_lost.store(true);
    // The whole range at once: one page at a time could need more mappings than a process may have.
    void *zeros = mmap(reinterpret_cast<void *>(begin), end - begin, PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    errno = saved_errno;
    if (zeros != MAP_FAILED) return;
    break;
  }
  pass_on(signal, info, context);
  errno = saved_errno;
}

// At each new mapping and each look at one: other code may have installed its own handler since.
// Whoever calls it holds slots_mutex.
void install() {
  struct sigaction current;
  sigaction(SIGBUS, nullptr, &current);
  if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == on_sigbus) return;
  int n = n_handlers.load();
  if (n == 0 || handlers[n - 1].sa_handler != current.sa_handler) {
    // Where there is no more room, the newest gives way: it has been replaced, most likely.
    n = std::min(n, kHandlers - 1);
    handlers[n] = current;
    n_handlers.store(n + 1);
  }
  struct sigaction ours = {};
  ours.sa_sigaction = on_sigbus;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&ours.sa_mask);
  if (sigaction(SIGBUS, &ours, nullptr) != 0)
    throw std::system_error(errno, std::generic_category());
}

int take_slot(uintptr_t begin, size_t n_bytes) {
  std::lock_guard<std::mutex> lock(slots_mutex);
  install();
  for (int i = 0; i < Mapping::kMappings; i++) {
    if (slots[i].begin.load() != 0) continue;
    slots[i].is_lost.store(false);
    slots[i].end.store(begin + n_bytes);
    slots[i].begin.store(begin);
    return i;
  }
  throw std::runtime_error("too many mapped files");
}

size_t whole_pages(size_t n_bytes) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  return (n_bytes + page - 1) / page * page;
}

}  // namespace

Mapping::Mapping(int descriptor, size_t n_bytes) : n_bytes_(n_bytes) {
  descriptor_ = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (descriptor_ < 0) throw std::system_error(errno, std::generic_category());
  void *found = MAP_FAILED;
  if (fstat(descriptor_, &opened_) == 0)
    found = mmap(nullptr, n_bytes, PROT_READ, MAP_SHARED, descriptor_, 0);
  if (found == MAP_FAILED) {
    const int error = errno;
    close(descriptor_);
    throw std::system_error(error, std::generic_category());
  }
  data_ = static_cast<uint8_t *>(found);
  try {
    slot_ = take_slot(reinterpret_cast<uintptr_t>(data_), whole_pages(n_bytes));
  } catch (...) {
    munmap(data_, n_bytes_);
    close(descriptor_);
    throw;
  }
  // Where the file system has huge pages; an error says that it has none.
  (void)madvise(data_, n_bytes_, MADV_HUGEPAGE);
}

Mapping::~Mapping() {
  {
    std::lock_guard<std::mutex> lock(slots_mutex);
    slots[slot_].begin.store(0);  // before the addresses may belong to somebody else
  }
  munmap(data_, n_bytes_);
  close(descriptor_);
}

bool Mapping::is_whole() const {
  {
    std::lock_guard<std::mutex> lock(slots_mutex);
    install();
  }
  if (slots[slot_].is_lost.load()) return false;
  struct stat now;
  return fstat(descriptor_, &now) == 0 && now.st_size == opened_.st_size &&
         now.st_mtim.tv_sec == opened_.st_mtim.tv_sec &&
         now.st_mtim.tv_nsec == opened_.st_mtim.tv_nsec;
}

void Mapping::populate(size_t begin, size_t end) const {
  end = std::min(end, n_bytes_);
  begin = begin / size_t(sysconf(_SC_PAGESIZE)) * size_t(sysconf(_SC_PAGESIZE));
  if (begin >= end) return;
  (void)madvise(data_ + begin, end - begin, MADV_WILLNEED);
  (void)madvise(data_ + begin, end - begin, MADV_POPULATE_READ);
}
