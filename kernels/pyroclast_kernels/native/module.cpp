// The table of this ISA level's kernels: kernels() -> {"op.format": address}.
#include <pybind11/pybind11.h>

#include "abi.h"

PYBIND11_MODULE(PYRO_LEVEL, m) {
  m.def("kernels", [] {
    pybind11::dict table;
    for (const KernelEntry &entry : kernel_table())
      table[entry.name] = reinterpret_cast<uintptr_t>(entry.function);
    return table;
  });
}
