// C++ values as Python objects.  Only what is in Python's limited API (CMakeLists.txt sets it), so
// that one build serves every CPython from 3.11 on.
#pragma once

#include <Python.h>
#include <structmember.h>

#include <cerrno>
#include <cstddef>
#include <memory>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

// A Python exception is set already.
struct PythonError {};

// A new reference to an object, given back at the end.  Null: a Python exception is set.
struct GiveBack {
  void operator()(PyObject *object) const { Py_DECREF(object); }
};
class Reference : public std::unique_ptr<PyObject, GiveBack> {
 public:
  explicit Reference(PyObject *object) : unique_ptr(object) {
    if (!object) throw PythonError();
  }
};

// The exception that is being handled, as Python's.
inline void raise_in_python() {
  try {
    throw;
  } catch (const PythonError &) {
  } catch (const std::bad_alloc &) {
    PyErr_NoMemory();
  } catch (const std::length_error &) {  // a vector of more items than there are addresses
    PyErr_NoMemory();
  } catch (const std::invalid_argument &error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::out_of_range &error) {
    PyErr_SetString(PyExc_IndexError, error.what());
  } catch (const std::system_error &error) {  // of a system call: the OSError of its number
    errno = error.code().value();
    PyErr_SetFromErrno(PyExc_OSError);
  } catch (const std::exception &error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

// The result of body(), or null with a Python exception set.
template <class Body>
PyObject *guarded(Body body) noexcept {
  try {
    return body();
  } catch (...) {
    raise_in_python();
    return nullptr;
  }
}

template <class T>
struct Boxed {
  PyObject_HEAD T *value;
  PyObject *weak_references;
};

template <class T>
T &unboxed(PyObject *self) {
  return *reinterpret_cast<Boxed<T> *>(self)->value;
}

// tp_new: the C++ value that make(args, kwargs) returns by new, in an object of `type`.
template <class T, T *(*make)(PyObject *, PyObject *)>
PyObject *new_boxed(PyTypeObject *type, PyObject *args, PyObject *kwargs) noexcept {
  return guarded([&] {
    T *value = make(args, kwargs);
    const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    PyObject *self = allocate(type, 0);
    if (self)
      reinterpret_cast<Boxed<T> *>(self)->value = value;
    else
      delete value;
    return self;
  });
}

template <class T>
void dealloc_boxed(PyObject *self) {
  if (reinterpret_cast<Boxed<T> *>(self)->weak_references) PyObject_ClearWeakRefs(self);
  delete reinterpret_cast<Boxed<T> *>(self)->value;
  PyTypeObject *type = Py_TYPE(self);
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

// The type "module.Name" of boxed values, made of its slots and added to the module.
template <class T>
PyTypeObject *add_type(PyObject *module, const char *name, std::vector<PyType_Slot> slots) {
  static PyMemberDef members[] = {
      {"__weaklistoffset__", T_PYSSIZET, offsetof(Boxed<T>, weak_references), READONLY, nullptr},
      {}};
  slots.push_back({Py_tp_members, members});
  slots.push_back({Py_tp_dealloc, reinterpret_cast<void *>(&dealloc_boxed<T>)});
  slots.push_back({0, nullptr});
  PyType_Spec spec = {name, sizeof(Boxed<T>), 0, Py_TPFLAGS_DEFAULT, slots.data()};
  Reference type{PyType_FromSpec(&spec)};
  if (PyModule_AddType(module, reinterpret_cast<PyTypeObject *>(type.get())) < 0)
    throw PythonError();
  return reinterpret_cast<PyTypeObject *>(type.release());
}

// Integers of any Python sequence, each converted by take(PyLong).
template <class Integer, class Take>
std::vector<Integer> integers(PyObject *sequence, Take take) {
  std::vector<Integer> found;
  if (!sequence) return found;
  const Reference iterator{PyObject_GetIter(sequence)};
  while (PyObject *next = PyIter_Next(iterator.get())) {
    const Reference item{next};
    found.push_back(Integer(take(next)));
    if (PyErr_Occurred()) break;
  }
  if (PyErr_Occurred()) throw PythonError();
  return found;
}
