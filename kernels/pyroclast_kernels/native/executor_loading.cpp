#include "executor_loading.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace {

// Whether all bytes could be read.  Why not, whoever reads them again will learn.
bool read_all(int descriptor, uint8_t *out, int64_t n_bytes, int64_t offset) {
  while (n_bytes > 0) {
    const ssize_t n = pread(descriptor, out, size_t(n_bytes), off_t(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    out += n;
    offset += n;
    n_bytes -= n;
  }
  return true;
}

bool load(const LoadRun &run, uint8_t *scratch) {
  const int64_t n_bytes = run.n_file_rows * run.row_bytes;
  if (!read_all(int(run.descriptor), scratch, n_bytes, run.offset)) return false;
  PackCall call = run.call;
  call.raw = scratch;
  if (run.order) {
    uint8_t *ordered = scratch + n_bytes;
    for (int64_t i = 0; i < call.n_rows; i++)
      std::memcpy(ordered + i * run.row_bytes, scratch + run.order[i] * run.row_bytes,
                  size_t(run.row_bytes));
    call.raw = ordered;
  }
  run.pack(&call, 0, 1);
  return true;
}

}  // namespace

void load_rows(const void *args, int part, int) {
  LoadArgs &a = *const_cast<LoadArgs *>(static_cast<const LoadArgs *>(args));
  if (part >= a.n_scratch) return;
  uint8_t *scratch = a.scratch + part * a.scratch_bytes;
  for (int64_t i; (i = a.next.fetch_add(1)) < a.n_runs;)
    a.runs[i].is_done = load(a.runs[i], scratch);
}
