// Python's view of the executor: Executor(n_threads) and Program(functions, args, parts).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <mutex>

#include "executor.h"

namespace py = pybind11;

namespace {

// A recorded list of calls.  The addresses belong to the caller, who keeps them alive.
class Program {
 public:
  Program(std::shared_ptr<Executor> executor, const std::vector<uintptr_t> &functions,
          const std::vector<uintptr_t> &args, const std::vector<int32_t> &parts)
      : executor_(std::move(executor)) {
    if (functions.size() != args.size() || args.size() != parts.size())
      throw std::invalid_argument("functions, args and parts must have one length");
    for (size_t i = 0; i < functions.size(); i++) {
      if (!functions[i] || parts[i] < 1)
        throw std::invalid_argument("a call needs a function address and at least one part");
      calls_.push_back({reinterpret_cast<Kernel>(functions[i]),
                        reinterpret_cast<const void *>(args[i]), parts[i]});
    }
  }

  // Runs calls [begin, end) and returns the nanoseconds it took.
  int64_t run(int begin, int end) {
    check(begin, end);
    py::gil_scoped_release no_gil;
    return timed(begin, end, nullptr);
  }
  int64_t run_all() {
    py::gil_scoped_release no_gil;
    return timed(0, int(calls_.size()), nullptr);
  }
  // The wall time of every call, in nanoseconds.
  std::vector<int64_t> profile() {
    std::vector<int64_t> call_ns(calls_.size());
    py::gil_scoped_release no_gil;
    timed(0, int(calls_.size()), call_ns.data());
    return call_ns;
  }
  size_t size() const { return calls_.size(); }

 private:
  void check(int begin, int end) const {
    if (begin < 0 || end < begin || end > int(calls_.size()))
      throw std::out_of_range("no such calls in this program");
  }
  int64_t timed(int begin, int end, int64_t *call_ns) {
    auto start = std::chrono::steady_clock::now();
    executor_->run(calls_.data() + begin, end - begin, call_ns);
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() -
                                                                start)
        .count();
  }

  std::shared_ptr<Executor> executor_;
  std::vector<Call> calls_;
};

}  // namespace

PYBIND11_MODULE(_executor, m) {
  py::class_<Executor, std::shared_ptr<Executor>>(m, "Executor")
      .def(py::init<int>(), py::arg("n_threads"))
      .def_property_readonly("n_threads", &Executor::n_threads);
  py::class_<Program>(m, "Program")
      .def(py::init<std::shared_ptr<Executor>, const std::vector<uintptr_t> &,
                    const std::vector<uintptr_t> &, const std::vector<int32_t> &>())
      .def("run", &Program::run_all)
      .def("run_range", &Program::run, py::arg("begin"), py::arg("end"))
      .def("profile", &Program::profile)
      .def("__len__", &Program::size);
}
