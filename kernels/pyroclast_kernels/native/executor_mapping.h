// A file mapped into memory, read-only and shared with other processes, that may be cut while it is
// read: a page that is gone gives zeros, and is_whole() says so, where otherwise SIGBUS would end
// the process.
//
// One handler of SIGBUS serves the whole process.  It knows the ranges of all mappings: a fault in
// one of them replaces that whole range by zero pages, marks it, and lets the reader go on.  Any
// other SIGBUS goes to the handler that was there before.  A handler that other code installs later
// stands in front of ours until the next Mapping or is_whole(), which put ours in front again.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>

class Mapping {
 public:
  // The first n_bytes of the file behind `descriptor`, which may be closed afterwards.  Raises
  // std::system_error if the system refuses, std::runtime_error if there are kMappings already.
  Mapping(int descriptor, size_t n_bytes);
  ~Mapping();
  Mapping(const Mapping &) = delete;
  Mapping &operator=(const Mapping &) = delete;

  static constexpr int kMappings = 256;

  const uint8_t *data() const { return data_; }
  size_t size() const { return n_bytes_; }
  // Whether no page was missing so far, and the file has the size and the time of modification
  // that it had when it was mapped.  About 1 us on a local file system.
  bool is_whole() const;
  // Brings the pages of [begin, end) in and maps them, as far as the system will: one call where
  // the reader would take a fault for every few pages.
  void populate(size_t begin, size_t end) const;

 private:
  int descriptor_;
  size_t n_bytes_;
  uint8_t *data_;
  int slot_;
  struct stat opened_;
};
