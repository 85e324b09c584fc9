# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Philox4x32-10, a counter-based random number generator: Salmon, Moraes, Dror and Shaw, "Parallel
# random numbers: as easy as 1, 2, 3" (SC 2011).  No state: the number is a function of its key and
# counter, so a row's draw depends on nothing but its own seed, position and completion.
from libc.stdint cimport uint32_t, uint64_t


cdef inline double uniform(uint64_t seed, uint64_t position, uint64_t completion) noexcept nogil:
    """53 random bits as a number in [0, 1)."""
    cdef uint32_t c0 = <uint32_t>position, c1 = <uint32_t>(position >> 32)
    cdef uint32_t c2 = <uint32_t>completion, c3 = <uint32_t>(completion >> 32)
    cdef uint32_t k0 = <uint32_t>seed, k1 = <uint32_t>(seed >> 32)
    cdef uint64_t p0, p1
    cdef int i
    for i in range(10):
        p0, p1 = <uint64_t>0xD2511F53 * c0, <uint64_t>0xCD9E8D57 * c2
        c0, c1 = <uint32_t>(p1 >> 32) ^ c1 ^ k0, <uint32_t>p1
        c2, c3 = <uint32_t>(p0 >> 32) ^ c3 ^ k1, <uint32_t>p0
        k0 += 0x9E3779B9u
        k1 += 0xBB67AE85u
    return <double>((<uint64_t>c0 << 32 | c1) >> 11) * 1.1102230246251565e-16  # 2^-53
