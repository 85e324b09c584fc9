// Python's view of the executor: Executor(n_threads), Program(executor, functions, args, parts) and
// Trace(executor, spans_per_thread, n_runs), whose records Python reads as bytes.
#include <pthread.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>

#include "executor.h"

namespace py = pybind11;

namespace {

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
void begin_ending() {
  ending_thread = pthread_self();
  ending.store(true);
  PyThreadState *state = PyEval_SaveThread();
  while (n_returning.load() > 0) usleep(200);
  PyEval_RestoreThread(state);
}

// In the child of a fork: threads of the parent that were returning are not there.
void begin_child() { n_returning.store(0); }

// A recorded list of calls.  The addresses belong to the caller, who keeps them alive.
class Program {
 public:
  Program(std::shared_ptr<Executor> executor, const std::vector<uintptr_t> &functions,
          const std::vector<uintptr_t> &args, const std::vector<int32_t> &parts,
          const std::vector<uintptr_t> &many, const std::vector<uintptr_t> &n_tokens,
          const std::vector<uintptr_t> &n_items)
      : executor_(std::move(executor)) {
    if (functions.size() != args.size() || args.size() != parts.size())
      throw std::invalid_argument("functions, args and parts must have one length");
    if (many.size() != n_tokens.size() || (!many.empty() && many.size() != functions.size()))
      throw std::invalid_argument("many and n_tokens must be empty or as long as functions");
    if (!n_items.empty() && n_items.size() != functions.size())
      throw std::invalid_argument("n_items must be empty or as long as functions");
    for (size_t i = 0; i < functions.size(); i++) {
      if (!functions[i] || parts[i] < 1)
        throw std::invalid_argument("a call needs a function address and at least one part");
      calls_.push_back({reinterpret_cast<Kernel>(functions[i]),
                        reinterpret_cast<const void *>(args[i]), parts[i]});
      if (!n_items.empty()) calls_.back().n_items = reinterpret_cast<const int64_t *>(n_items[i]);
      if (many.empty() || !many[i]) continue;
      if (!n_tokens[i]) throw std::invalid_argument("a call with two kernels needs n_tokens");
      calls_.back().many = reinterpret_cast<Kernel>(many[i]);
      calls_.back().n_tokens = reinterpret_cast<const int64_t *>(n_tokens[i]);
    }
  }

  // Runs calls [begin, end) and returns the nanoseconds it took.
  int64_t run(int begin, int end) {
    if (begin < 0 || end < begin || end > int(calls_.size()))
      throw std::out_of_range("no such calls in this program");
    NoGil no_gil;
    return timed(begin, end);
  }
  int64_t run_all() {
    NoGil no_gil;
    return timed(0, int(calls_.size()));
  }
  size_t size() const { return calls_.size(); }

 private:
  int64_t timed(int begin, int end) {
    auto start = std::chrono::steady_clock::now();
    executor_->run(calls_.data() + begin, end - begin);
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() -
                                                                start)
        .count();
  }

  std::shared_ptr<Executor> executor_;
  std::vector<Call> calls_;
};

// Records every run of an executor from start() to stop().  One at a time for each executor.
class Recording {
 public:
  Recording(std::shared_ptr<Executor> executor, size_t spans_per_thread, size_t n_runs)
      : executor_(std::move(executor)), trace_(executor_->n_threads(), spans_per_thread, n_runs) {}
  ~Recording() { stop(); }

  void start() {
    if (on_) return;
    executor_->set_trace(&trace_);
    on_ = true;
  }
  void stop() {
    if (on_) executor_->set_trace(nullptr);
    on_ = false;
  }
  // The spans of all threads, thread after thread, each thread's in order.
  py::bytes spans() const {
    std::string all;
    for (const Trace::Lane &lane : trace_.lanes)
      all.append(reinterpret_cast<const char *>(lane.spans.get()), lane.used * sizeof(PartSpan));
    return py::bytes(all);
  }
  py::bytes runs() const {
    return py::bytes(reinterpret_cast<const char *>(trace_.runs.data()),
                     trace_.runs_used * sizeof(RunSpan));
  }
  int64_t n_dropped() const {
    int64_t n = trace_.n_dropped;
    for (const Trace::Lane &lane : trace_.lanes) n += lane.n_dropped;
    return n;
  }

 private:
  std::shared_ptr<Executor> executor_;
  Trace trace_;
  bool on_ = false;
};

}  // namespace

PYBIND11_MODULE(_executor, m) {
  m.attr("FEW_TOKENS") = kFewTokens;
  py::module_::import("atexit").attr("register")(py::cpp_function(&begin_ending));
  py::module_::import("os").attr("register_at_fork")(py::arg("after_in_child") =
                                                         py::cpp_function(&begin_child));
  py::class_<Executor, std::shared_ptr<Executor>>(m, "Executor")
      .def(py::init<int>(), py::arg("n_threads"))
      .def_property_readonly("n_threads", &Executor::n_threads);
  py::class_<Program>(m, "Program")
      .def(py::init<std::shared_ptr<Executor>, const std::vector<uintptr_t> &,
                    const std::vector<uintptr_t> &, const std::vector<int32_t> &,
                    const std::vector<uintptr_t> &, const std::vector<uintptr_t> &,
                    const std::vector<uintptr_t> &>(),
           py::arg("executor"), py::arg("functions"), py::arg("args"), py::arg("parts"),
           py::arg("many") = std::vector<uintptr_t>(),
           py::arg("n_tokens") = std::vector<uintptr_t>(),
           py::arg("n_items") = std::vector<uintptr_t>())
      .def("run", &Program::run_all)
      .def("run_range", &Program::run, py::arg("begin"), py::arg("end"))
      .def("__len__", &Program::size);
  py::class_<Recording>(m, "Trace")
      .def(py::init<std::shared_ptr<Executor>, size_t, size_t>(), py::arg("executor"),
           py::arg("spans_per_thread"), py::arg("n_runs"))
      .def("start", &Recording::start)
      .def("stop", &Recording::stop)
      .def_property_readonly("spans", &Recording::spans)
      .def_property_readonly("runs", &Recording::runs)
      .def_property_readonly("n_dropped", &Recording::n_dropped);
}
