// Who made the CPU, for loops that are faster on one maker's.  Never a question of the result's
// bits.
#pragma once

#if defined(__x86_64__)
inline const bool kIsIntel = (__builtin_cpu_init(), __builtin_cpu_is("intel") != 0);
#else
constexpr bool kIsIntel = false;
#endif
