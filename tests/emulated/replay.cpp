// Replays recorded calls of kernels, and compares what they write with what was recorded, byte by
// byte.  record.py writes the calls; see it for the file's layout.  Linked with the object files of
// one instruction-set level, without Python, so that an emulator of a CPU can run it.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "native/abi.h"
#include "native/scratch.h"

namespace {

constexpr int kParts = 3;
constexpr size_t kAlignment = 4096;  // weights lie in pages

struct Free {
  void operator()(uint8_t *p) const { std::free(p); }
};

// A slot of the argument struct: a number, or the address of an array.
struct Slot {
  int64_t value = 0;
  uint64_t n_bytes = 0;
  std::unique_ptr<uint8_t, Free> array;
  std::vector<uint8_t> wanted;  // empty where the array is no output
};

[[noreturn]] void fail(const char *what) {
  std::fprintf(stderr, "replay: %s\n", what);
  std::exit(2);
}

void read_bytes(std::FILE *file, void *to, uint64_t n) {
  if (n && std::fread(to, 1, n, file) != n) fail("the recording ends too early");
}
uint64_t read_number(std::FILE *file) {
  uint64_t number;
  read_bytes(file, &number, sizeof number);
  return number;
}

Slot read_slot(std::FILE *file) {
  Slot slot;
  const uint64_t kind = read_number(file);
  if (kind == 0) {
    slot.value = int64_t(read_number(file));
    return slot;
  }
  slot.n_bytes = read_number(file);
  const uint64_t room = (slot.n_bytes + kAlignment) / kAlignment * kAlignment;
  slot.array.reset(static_cast<uint8_t *>(std::aligned_alloc(kAlignment, room)));
  if (!slot.array) fail("no memory for an array");
  read_bytes(file, slot.array.get(), slot.n_bytes);
  slot.value = int64_t(uintptr_t(slot.array.get()));
  if (kind == 2) {
    slot.wanted.resize(slot.n_bytes);
    read_bytes(file, slot.wanted.data(), slot.n_bytes);
  }
  return slot;
}

const KernelEntry *kernel_of(const std::string &name) {
  for (const KernelEntry &entry : kernel_table())
    if (name == entry.name) return &entry;
  return nullptr;
}

// Runs a kernel over its slots; how many outputs differ.
int play(const KernelEntry &kernel, const std::string &title, const std::vector<Slot> &slots) {
  std::vector<int64_t> values;
  for (const Slot &slot : slots) values.push_back(slot.value);
  const int64_t n_scratch = kernel.scratch_bytes ? kernel.scratch_bytes(values.data()) : 0;
  if (n_scratch && !reserve_scratch(1, n_scratch)) fail("no memory for scratch");
  for (int part = 0; part < kParts; part++) kernel.function(values.data(), part, kParts);
  int n_wrong = 0;
  for (size_t i = 0; i < slots.size(); i++) {
    const std::vector<uint8_t> &wanted = slots[i].wanted;
    if (wanted.empty() || !std::memcmp(wanted.data(), slots[i].array.get(), wanted.size()))
      continue;
    uint64_t at = 0;
    while (wanted[at] == slots[i].array.get()[at]) at++;
    std::printf("DIFFERS %s: argument %zu, byte %" PRIu64 "\n", title.c_str(), i, at);
    n_wrong++;
  }
  return n_wrong;
}

}  // namespace

int main(int argc, char **argv) {
  std::FILE *file = argc == 2 ? std::fopen(argv[1], "rb") : nullptr;
  if (!file) fail("usage: replay RECORDING");
  int n_played = 0, n_absent = 0, n_wrong = 0;
  for (uint64_t length = read_number(file); length; length = read_number(file)) {
    std::string title(length, ' ');
    read_bytes(file, &title[0], length);
    std::vector<Slot> slots;
    for (uint64_t n = read_number(file); n; n--) slots.push_back(read_slot(file));
    const KernelEntry *kernel = kernel_of(title.substr(0, title.find(' ')));
    if (!kernel) {
      n_absent++;
      continue;
    }
    n_wrong += play(*kernel, title, slots);
    n_played++;
  }
  std::fclose(file);
  std::printf("%d calls played, %d of kernels that this level lacks, %d outputs differ\n", n_played,
              n_absent, n_wrong);
  return n_wrong || !n_played;
}
