// Reads rows of files and packs them, as one call of a program: no GIL, and no barrier between one
// run of rows and the next.
#pragma once

#include <atomic>
#include <cstdint>

#include "abi.h"

// What `load_rows` takes.  Each part takes the next run that nobody has, until there is none; parts
// beyond n_scratch do nothing.  file_loading.py mirrors both structs.
struct LoadArgs {
  struct LoadRun *runs;
  int64_t n_runs;
  std::atomic<int64_t> next;
  uint8_t *scratch;  // n_scratch pieces of scratch_bytes, the most that a run needs
  int64_t scratch_bytes;
  int64_t n_scratch;
};

// The arguments of the op `pack`, in the order of its reference.
struct PackCall {
  const uint8_t *raw;
  uint8_t *weight;
  int64_t n_rows, n_cols, row_offset;
};

// n_file_rows rows of row_bytes bytes that lie in a file from offset on.  order: which of them the
// packed rows are, call.n_rows numbers; null: all, as they lie.  A run takes n_file_rows rows of
// scratch, and with an order call.n_rows more.
struct LoadRun {
  int64_t descriptor, offset, row_bytes, n_file_rows;
  const int64_t *order;
  Kernel pack;
  PackCall call;    // without raw
  int64_t is_done;  // out: 0 where the file could not be read
};

// A kernel: see abi.h.
void load_rows(const void *args, int part, int n_parts);
