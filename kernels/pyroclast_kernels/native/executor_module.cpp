// Python's view of the executor: Executor(n_threads), Program(executor, functions, args, parts),
// Trace(executor, spans_per_thread, n_runs), whose records Python reads as bytes, and
// Mapping(descriptor, n_bytes), whose memory Python reads as a buffer; LOAD_ROWS, the address of
// the kernel that reads files, and the functions of executor_strings.h.
#include "executor_python.h"
// Python.h comes first, as it asks.
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "executor.h"
#include "executor_loading.h"
#include "executor_mapping.h"
#include "executor_program.h"
#include "executor_strings.h"

namespace {

using Shared = std::shared_ptr<Executor>;
PyTypeObject *executor_type;  // lives as long as the process

// Python ends a daemon thread that asks for the GIL while the interpreter ends: it unwinds the
// thread's stack, which C++ answers with abort().  So from the end of the program on (an atexit
// callback), threads that come back from native code stay here instead, until the process is gone.
std::atomic<bool> ending{false};
std::atomic<int> n_returning{0};  // threads between the last look at `ending` and the GIL
pthread_t ending_thread;

class NoGil {
 public:
  NoGil() : state_(PyEval_SaveThread()) {}
  ~NoGil() {
    n_returning.fetch_add(1);
    if (ending.load() && !pthread_equal(pthread_self(), ending_thread)) {
      n_returning.fetch_sub(1);
      for (;;) pause();
    }
    PyEval_RestoreThread(state_);
    n_returning.fetch_sub(1);
  }
  NoGil(const NoGil &) = delete;
  NoGil &operator=(const NoGil &) = delete;

 private:
  PyThreadState *state_;
};

// Called once, by the thread that ends the interpreter, with the GIL.
PyObject *begin_ending(PyObject *, PyObject *) {
  ending_thread = pthread_self();
  ending.store(true);
  PyThreadState *state = PyEval_SaveThread();
  while (n_returning.load() > 0) usleep(200);
  PyEval_RestoreThread(state);
  Py_RETURN_NONE;
}

// In the child of a fork: threads of the parent that were returning are not there, nor the one that
// ended the interpreter, unless it is the one that forked.
PyObject *begin_child(PyObject *, PyObject *) {
  n_returning.store(0);
  if (!pthread_equal(pthread_self(), ending_thread)) ending.store(false);
  Py_RETURN_NONE;
}

template <class... Targets>
void parse(PyObject *args, PyObject *kwargs, const char *format, const char *const *names,
           Targets... targets) {
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, const_cast<char **>(names), targets...))
    throw PythonError();
}

size_t unsigned_size(Py_ssize_t size, const char *name) {
  if (size < 0) throw std::invalid_argument(std::string(name) + " must not be negative");
  return size_t(size);
}

PyObject *bytes_of(const std::string &data) {
  return PyBytes_FromStringAndSize(data.data(), Py_ssize_t(data.size()));
}

// ---- Executor ----------------------------------------------------------------------------------
Shared *make_executor(PyObject *args, PyObject *kwargs) {
  const char *const names[] = {"n_threads", nullptr};
  int n_threads;
  parse(args, kwargs, "i:Executor", names, &n_threads);
  return new Shared(std::make_shared<Executor>(n_threads));
}

PyObject *n_threads(PyObject *self, void *) {
  return PyLong_FromLong(unboxed<Shared>(self)->n_threads());
}

PyGetSetDef executor_facts[] = {{"n_threads", n_threads, nullptr, nullptr, nullptr}, {}};

// ---- Program -----------------------------------------------------------------------------------
Program::Addresses addresses(PyObject *sequence) {
  return integers<uintptr_t>(sequence, &PyLong_AsSize_t);
}

std::vector<int32_t> counts(PyObject *sequence) {
  std::vector<int32_t> found;
  for (const long value : integers<long>(sequence, &PyLong_AsLong)) {
    if (value != int32_t(value)) throw std::invalid_argument("no call has so many parts");
    found.push_back(int32_t(value));
  }
  return found;
}

Program *make_program(PyObject *args, PyObject *kwargs) {
  const char *const names[] = {"executor", "functions", "args",    "parts",
                               "many",     "n_tokens",  "n_items", nullptr};
  PyObject *executor, *functions, *structs, *parts;
  PyObject *many = nullptr, *n_tokens = nullptr, *n_items = nullptr;
  parse(args, kwargs, "O!OOO|OOO:Program", names, executor_type, &executor, &functions, &structs,
        &parts, &many, &n_tokens, &n_items);
  return new Program(unboxed<Shared>(executor), addresses(functions), addresses(structs),
                     counts(parts), addresses(many), addresses(n_tokens), addresses(n_items));
}

PyObject *run_calls(Program &program, long begin, long end) {
  int64_t took_ns;
  {
    NoGil no_gil;
    took_ns = program.run(begin, end);
  }
  return PyLong_FromLongLong(took_ns);
}

PyObject *run_all(PyObject *self, PyObject *) {
  return guarded([&] {
    Program &program = unboxed<Program>(self);
    return run_calls(program, 0, long(program.size()));
  });
}

PyObject *run_range(PyObject *self, PyObject *args, PyObject *kwargs) {
  return guarded([&] {
    const char *const names[] = {"begin", "end", nullptr};
    long begin, end;
    parse(args, kwargs, "ll:run_range", names, &begin, &end);
    unboxed<Program>(self).check(begin, end);
    return run_calls(unboxed<Program>(self), begin, end);
  });
}

Py_ssize_t n_calls(PyObject *self) { return Py_ssize_t(unboxed<Program>(self).size()); }

PyCFunction with_keywords(PyObject *(*function)(PyObject *, PyObject *, PyObject *)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef program_methods[] = {
    {"run", run_all, METH_NOARGS, "Run all calls; the nanoseconds that it took."},
    {"run_range", with_keywords(run_range), METH_VARARGS | METH_KEYWORDS,
     "Run the calls [begin, end); the nanoseconds that it took."},
    {}};

// ---- Trace -------------------------------------------------------------------------------------
Recording *make_trace(PyObject *args, PyObject *kwargs) {
  const char *const names[] = {"executor", "spans_per_thread", "n_runs", nullptr};
  PyObject *executor;
  Py_ssize_t spans_per_thread, n_runs;
  parse(args, kwargs, "O!nn:Trace", names, executor_type, &executor, &spans_per_thread, &n_runs);
  return new Recording(unboxed<Shared>(executor),
                       unsigned_size(spans_per_thread, "spans_per_thread"),
                       unsigned_size(n_runs, "n_runs"));
}

PyObject *start(PyObject *self, PyObject *) {
  unboxed<Recording>(self).start();
  Py_RETURN_NONE;
}
PyObject *stop(PyObject *self, PyObject *) {
  unboxed<Recording>(self).stop();
  Py_RETURN_NONE;
}
PyObject *spans(PyObject *self, void *) {
  return guarded([&] { return bytes_of(unboxed<Recording>(self).spans()); });
}
PyObject *runs(PyObject *self, void *) {
  return guarded([&] { return bytes_of(unboxed<Recording>(self).runs()); });
}
PyObject *n_dropped(PyObject *self, void *) {
  return PyLong_FromLongLong(unboxed<Recording>(self).n_dropped());
}

PyMethodDef trace_methods[] = {{"start", start, METH_NOARGS, "Record from the next run on."},
                               {"stop", stop, METH_NOARGS, "Record no more runs."},
                               {}};
PyGetSetDef trace_facts[] = {{"spans", spans, nullptr, nullptr, nullptr},
                             {"runs", runs, nullptr, nullptr, nullptr},
                             {"n_dropped", n_dropped, nullptr, nullptr, nullptr},
                             {}};

// ---- Mapping -----------------------------------------------------------------------------------
Mapping *make_mapping(PyObject *args, PyObject *kwargs) {
  const char *const names[] = {"descriptor", "n_bytes", nullptr};
  int descriptor;
  Py_ssize_t n_bytes;
  parse(args, kwargs, "in:Mapping", names, &descriptor, &n_bytes);
  return new Mapping(descriptor, unsigned_size(n_bytes, "n_bytes"));
}

int mapped_buffer(PyObject *self, Py_buffer *view, int flags) {
  const Mapping &mapping = unboxed<Mapping>(self);
  void *data = const_cast<uint8_t *>(mapping.data());
  return PyBuffer_FillInfo(view, self, data, Py_ssize_t(mapping.size()), 1, flags);
}

PyObject *is_whole(PyObject *self, void *) {
  return PyBool_FromLong(unboxed<Mapping>(self).is_whole());
}

PyObject *populate(PyObject *self, PyObject *args, PyObject *kwargs) {
  return guarded([&] {
    const char *const names[] = {"begin", "end", nullptr};
    Py_ssize_t begin, end;
    parse(args, kwargs, "nn:populate", names, &begin, &end);
    const size_t first = unsigned_size(begin, "begin"), last = unsigned_size(end, "end");
    {
      NoGil no_gil;
      unboxed<Mapping>(self).populate(first, last);
    }
    return Py_NewRef(Py_None);
  });
}

PyMethodDef mapping_methods[] = {{"populate", with_keywords(populate), METH_VARARGS | METH_KEYWORDS,
                                  "Bring in the pages of the bytes [begin, end)."},
                                 {}};
PyGetSetDef mapping_facts[] = {{"is_whole", is_whole, nullptr, nullptr, nullptr}, {}};

// ---- the module --------------------------------------------------------------------------------
template <class Function>
void *slot(Function *function) {
  return reinterpret_cast<void *>(function);
}

void add_types(PyObject *module) {
  executor_type = add_type<Shared>(
      module, "pyroclast_kernels._executor.Executor",
      {{Py_tp_new, slot(&new_boxed<Shared, make_executor>)}, {Py_tp_getset, executor_facts}});
  add_type<Program>(module, "pyroclast_kernels._executor.Program",
                    {{Py_tp_new, slot(&new_boxed<Program, make_program>)},
                     {Py_tp_methods, program_methods},
                     {Py_sq_length, slot(&n_calls)}});
  add_type<Recording>(module, "pyroclast_kernels._executor.Trace",
                      {{Py_tp_new, slot(&new_boxed<Recording, make_trace>)},
                       {Py_tp_methods, trace_methods},
                       {Py_tp_getset, trace_facts}});
  add_type<Mapping>(module, "pyroclast_kernels._executor.Mapping",
                    {{Py_tp_new, slot(&new_boxed<Mapping, make_mapping>)},
                     {Py_tp_methods, mapping_methods},
                     {Py_tp_getset, mapping_facts},
                     {Py_bf_getbuffer, slot(&mapped_buffer)}});
}

PyMethodDef ending_method = {"begin_ending", begin_ending, METH_NOARGS, nullptr};
PyMethodDef child_method = {"begin_child", begin_child, METH_NOARGS, nullptr};

// module.function(callback), or function(keyword=callback), called for its effect.
void call(const char *module_name, const char *function_name, const char *keyword,
          PyMethodDef *callback) {
  Reference module{PyImport_ImportModule(module_name)};
  Reference function{PyObject_GetAttrString(module.get(), function_name)};
  Reference argument{PyCFunction_NewEx(callback, nullptr, nullptr)};
  Reference args{keyword ? PyTuple_New(0) : PyTuple_Pack(1, argument.get())};
  Reference kwargs{keyword ? Py_BuildValue("{sO}", keyword, argument.get()) : PyDict_New()};
  Reference result{PyObject_Call(function.get(), args.get(), kwargs.get())};
}

PyObject *n_live_threads(PyObject *, PyObject *) {
  return PyLong_FromLong(Executor::n_live_threads());
}

PyMethodDef functions[] = {
    {"n_live_threads", n_live_threads, METH_NOARGS, "Threads of all executors that there are."},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_executor", nullptr, -1, functions, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__executor() {
  return guarded([] {
    Reference module{PyModule_Create(&definition)};
    add_types(module.get());
    if (PyModule_AddIntConstant(module.get(), "FEW_TOKENS", kFewTokens) < 0) throw PythonError();
    Reference load_address{PyLong_FromVoidPtr(slot(&load_rows))};
    if (PyModule_AddObjectRef(module.get(), "LOAD_ROWS", load_address.get()) < 0 ||
        PyModule_AddFunctions(module.get(), string_functions) < 0)
      throw PythonError();
    call("atexit", "register", nullptr, &ending_method);
    call("os", "register_at_fork", "after_in_child", &child_method);
    return module.release();
  });
}
