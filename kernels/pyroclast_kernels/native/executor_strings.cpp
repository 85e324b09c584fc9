#include "executor_strings.h"
// Python.h comes first, as it asks.
#include <cstdint>
#include <cstring>

namespace {

// The bytes of an object of Python's type `bytes`.
struct Bytes {
  explicit Bytes(PyObject *object) {
    if (PyBytes_AsStringAndSize(object, &data, &size) < 0) throw PythonError();
  }
  // Whether a whole length lies at `position`, which is not beyond the end.
  bool has_length(Py_ssize_t position) const { return size - position >= 8; }
  uint64_t length(Py_ssize_t position) const {  // little-endian, like every system that builds this
    uint64_t found;
    std::memcpy(&found, data + position, 8);
    return found;
  }

  char *data;
  Py_ssize_t size;
};

PyObject *step_over(PyObject *, PyObject *args) {
  return guarded([&] {
    PyObject *object;
    Py_ssize_t position, count, n_done = 0;
    if (!PyArg_ParseTuple(args, "Onn", &object, &position, &count)) throw PythonError();
    const Bytes bytes(object);
    if (position < 0 || position > bytes.size) throw std::out_of_range("no such position");
    while (n_done < count && bytes.has_length(position)) {
      const uint64_t length = bytes.length(position);
      if (length > uint64_t(bytes.size - position - 8)) break;
      position += 8 + Py_ssize_t(length);
      n_done++;
    }
    return Py_BuildValue("nn", n_done, position);
  });
}

PyObject *decode(PyObject *, PyObject *args) {
  return guarded([&]() -> PyObject * {
    PyObject *object;
    Py_ssize_t position = 0, count;
    if (!PyArg_ParseTuple(args, "On", &object, &count)) throw PythonError();
    const Bytes bytes(object);
    // Every string takes 8 bytes at least, so a false count cannot ask for more memory than that.
    if (count < 0 || count > bytes.size / 8) Py_RETURN_NONE;
    Reference strings{PyList_New(count)};
    for (Py_ssize_t i = 0; i < count; i++) {
      if (i % 65536 == 65535 && PyErr_CheckSignals() < 0) throw PythonError();  // Ctrl-C
      if (!bytes.has_length(position)) Py_RETURN_NONE;
      const uint64_t length = bytes.length(position);
      position += 8;
      if (length > uint64_t(bytes.size - position)) Py_RETURN_NONE;
      PyObject *text = PyUnicode_DecodeUTF8(bytes.data + position, Py_ssize_t(length), nullptr);
      if (!text && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        Py_RETURN_NONE;
      }
      if (!text || PyList_SetItem(strings.get(), i, text) < 0) throw PythonError();
      position += Py_ssize_t(length);
    }
    if (position != bytes.size) Py_RETURN_NONE;
    return strings.release();
  });
}

// The place of the space that separates a pair: the first one, but never the first character.
Py_ssize_t separator(PyObject *line) {
  if (!PyUnicode_Check(line)) return -1;
  const Py_ssize_t size = PyUnicode_GetLength(line);
  const Py_ssize_t at = size < 1 ? -1 : PyUnicode_FindChar(line, ' ', 1, size, 1);
  if (at == -2) throw PythonError();
  return at;
}

PyObject *split_pairs(PyObject *, PyObject *lines) {
  return guarded([&]() -> PyObject * {
    if (!PyList_Check(lines)) Py_RETURN_NONE;
    const Py_ssize_t count = PyList_Size(lines);
    Reference pairs{PyList_New(count)};
    for (Py_ssize_t i = 0; i < count; i++) {
      if (i % 65536 == 65535 && PyErr_CheckSignals() < 0) throw PythonError();  // Ctrl-C
      PyObject *line = PyList_GetItem(lines, i);  // borrowed; the caller's list is its own
      if (!line) throw PythonError();
      const Py_ssize_t at = separator(line);
      if (at < 0) Py_RETURN_NONE;
      const Reference left{PyUnicode_Substring(line, 0, at)};
      const Reference right{PyUnicode_Substring(line, at + 1, PyUnicode_GetLength(line))};
      PyObject *pair = PyTuple_Pack(2, left.get(), right.get());
      if (!pair || PyList_SetItem(pairs.get(), i, pair) < 0) throw PythonError();
    }
    return pairs.release();
  });
}

}  // namespace

PyMethodDef string_functions[] = {
    {"step_over_strings", step_over, METH_VARARGS, "(how many were stepped over, where they end)."},
    {"decode_strings", decode, METH_VARARGS, "The strings, or None if data is not just these."},
    {"split_pairs", split_pairs, METH_O, "The pairs, or None if a line is no pair."},
    {nullptr, nullptr, 0, nullptr}};
