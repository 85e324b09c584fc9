// The table of this ISA level's kernels: kernels() -> {"op.format": address}.
//
// In Python's own C API, which compiles in a thirtieth of the time of pybind11.
#include <Python.h>

#include "abi.h"

#define PYRO_TEXT2(a) #a
#define PYRO_TEXT(a) PYRO_TEXT2(a)

namespace {

PyObject *kernels(PyObject *, PyObject *) {
  PyObject *table = PyDict_New();
  if (!table) return nullptr;
  for (const KernelEntry &entry : kernel_table()) {
    PyObject *address = PyLong_FromVoidPtr(reinterpret_cast<void *>(entry.function));
    const bool stored = address && PyDict_SetItemString(table, entry.name, address) == 0;
    Py_XDECREF(address);
    if (!stored) {
      Py_DECREF(table);
      return nullptr;
    }
  }
  return table;
}

PyMethodDef methods[] = {{"kernels", kernels, METH_NOARGS, nullptr},
                         {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          PYRO_TEXT(PYRO_LEVEL),
                          nullptr,
                          0,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace

PyMODINIT_FUNC PYRO_JOIN(PyInit_, PYRO_LEVEL)() { return PyModule_Create(&definition); }
