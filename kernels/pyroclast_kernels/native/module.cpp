// The table of this ISA level's kernels: kernels() -> {"op.format": address}, and their scratch
// memory: scratch_bytes(address, args), reserve_scratch(n_threads, n_bytes).
//
// Only what is in Python's limited API, as in executor_python.h.
#include <Python.h>

#include "abi.h"
#include "scratch.h"

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

// How much a call of the kernel at an address takes; 0 for one that is not in the table.
PyObject *scratch_bytes(PyObject *, PyObject *given) {
  unsigned long long function = 0, args = 0;
  if (!PyArg_ParseTuple(given, "KK", &function, &args)) return nullptr;
  long long n_bytes = 0;
  for (const KernelEntry &entry : kernel_table())
    if (uintptr_t(entry.function) == function && entry.scratch_bytes)
      n_bytes = entry.scratch_bytes(reinterpret_cast<const void *>(uintptr_t(args)));
  return PyLong_FromLongLong(n_bytes);
}

PyObject *reserve(PyObject *, PyObject *given) {
  int n_threads = 0;
  long long n_bytes = 0;
  if (!PyArg_ParseTuple(given, "iL", &n_threads, &n_bytes)) return nullptr;
  if (!reserve_scratch(n_threads, n_bytes)) return PyErr_NoMemory();
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {{"kernels", kernels, METH_NOARGS, nullptr},
                         {"scratch_bytes", scratch_bytes, METH_VARARGS, nullptr},
                         {"reserve_scratch", reserve, METH_VARARGS, nullptr},
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
