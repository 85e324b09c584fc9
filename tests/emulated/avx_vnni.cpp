// AVX-VNNI on CPUs that have AVX2 alone: a handler of SIGILL that does the dot product of bytes
// (vpdpbusd) or words (vpdpwssd) of the VEX encoding in software, on the registers in the signal's
// frame, and goes on behind it.  So the level avxvnni runs as it was compiled, slowly, on any such
// machine.  Encodings: Intel, Instruction Set Extensions Programming Reference, chapter 5; the
// frame: Linux, arch/x86/include/uapi/asm/sigcontext.h.
#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <cstring>

namespace {

std::atomic<long> n_done{0};

struct Instruction {
  int opcode = 0, target = 0, first = 0, length = 0, n_lanes = 0;
  int second = -1;  // a register, or -1: the operand is at `address`
  uint64_t address = 0;
};

uint64_t general(const greg_t *g, int number) {
  static constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                     REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                     REG_R12, REG_R13, REG_R14, REG_R15};
  return uint64_t(g[kOrder[number]]);
}

// The operand in memory behind a ModRM byte at p; the bytes that it takes, ModRM included.
int decode_memory(const uint8_t *p, const greg_t *g, int x, int b, Instruction &out) {
  const int mod = p[0] >> 6, rm = p[0] & 7;
  int n = 1, base = rm | b << 3;
  if (rm == 4) {
    const uint8_t sib = p[n++];
    const int index = (sib >> 3 & 7) | x << 3;
    base = (sib & 7) | b << 3;
    if (index != 4) out.address += general(g, index) << (sib >> 6);
  }
  const bool without_base = mod == 0 && (base & 7) == 5;
  if (!without_base) out.address += general(g, base);
  if (mod == 1) {
    out.address += uint64_t(int64_t(int8_t(p[n++])));
  } else if (mod == 2 || without_base) {
    int32_t displacement;
    std::memcpy(&displacement, p + n, 4);
    n += 4;
    out.address += uint64_t(int64_t(displacement));
    // Without an index byte, it counts from the next instruction.
    if (without_base && rm == 5) out.address += uint64_t(uintptr_t(p + n));
  }
  return n;
}

// Whether the instruction at p is one of ours: a VEX prefix of three bytes, map 0F38, prefix 66.
bool decode(const uint8_t *p, const greg_t *g, Instruction &out) {
  if (p[0] != 0xc4 || (p[1] & 31) != 2 || (p[2] & 0x83) != 1) return false;
  out.opcode = p[3];
  if (out.opcode != 0x50 && out.opcode != 0x52) return false;
  const int r = !(p[1] & 0x80), x = !(p[1] & 0x40), b = !(p[1] & 0x20);
  out.n_lanes = p[2] & 4 ? 8 : 4;
  out.first = ~(p[2] >> 3) & 15;
  out.target = (p[4] >> 3 & 7) | r << 3;
  out.length = 4;
  if (p[4] >> 6 == 3) {
    out.second = (p[4] & 7) | b << 3;
    out.length += 1;
  } else {
    out.length += decode_memory(p + 4, g, x, b, out);
  }
  return true;
}

// The registers in a signal's frame: lower halves as FXSAVE stores them, upper ones behind.
class Registers {
 public:
  explicit Registers(uint8_t *frame) : frame_(frame) {}
  bool has_ymm() const {
    uint32_t magic;
    std::memcpy(&magic, frame_ + 464, 4);
    return magic == 0x46505853 && frame_[472] & 4;  // what the frame holds: bit 2, upper halves
  }
  void read(int number, int32_t *lanes) const {
    std::memcpy(lanes, frame_ + 160 + 16 * number, 16);
    std::memcpy(lanes + 4, frame_ + 576 + 16 * number, 16);
  }
  void write(int number, const int32_t *lanes) {
    std::memcpy(frame_ + 160 + 16 * number, lanes, 16);
    std::memcpy(frame_ + 576 + 16 * number, lanes + 4, 16);
    frame_[512] |= 6;  // neither half is in its initial state now
  }

 private:
  uint8_t *frame_;
};

uint32_t dot(int opcode, uint32_t sum, uint32_t a, uint32_t b) {
  if (opcode == 0x50)
    for (int i = 0; i < 32; i += 8)
      sum += uint32_t(int32_t(uint8_t(a >> i)) * int32_t(int8_t(b >> i)));
  else
    for (int i = 0; i < 32; i += 16)
      sum += uint32_t(int32_t(int16_t(a >> i)) * int32_t(int16_t(b >> i)));
  return sum;
}

void on_illegal(int, siginfo_t *, void *context) {
  mcontext_t &machine = static_cast<ucontext_t *>(context)->uc_mcontext;
  Registers registers(reinterpret_cast<uint8_t *>(machine.fpregs));
  Instruction found;
  const uint8_t *p = reinterpret_cast<const uint8_t *>(machine.gregs[REG_RIP]);
  if (!decode(p, machine.gregs, found) || !registers.has_ymm()) {
    signal(SIGILL, SIG_DFL);  // it comes again, and ends the process
    return;
  }
  int32_t sum[8], a[8], b[8] = {};
  registers.read(found.target, sum);
  registers.read(found.first, a);
  if (found.second >= 0)
    registers.read(found.second, b);
  else
    std::memcpy(b, reinterpret_cast<const void *>(found.address), size_t(4 * found.n_lanes));
  for (int i = 0; i < 8; i++)
    sum[i] = i < found.n_lanes
                 ? int32_t(dot(found.opcode, uint32_t(sum[i]), uint32_t(a[i]), uint32_t(b[i])))
                 : 0;
  registers.write(found.target, sum);
  machine.gregs[REG_RIP] += found.length;
  n_done.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

extern "C" {

// From now on this process has the instructions; 0, or -1 where the handler cannot be set.
int install() {
  struct sigaction action = {};
  action.sa_sigaction = on_illegal;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGILL, &action, nullptr);
}

long n_emulated() { return n_done.load(); }

}  // extern "C"
