# Everything happens in .venv; nothing on the machine is changed. PYTHON chooses the interpreter (>= 3.10).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml CMakeLists.txt constraints.txt $(shell find csrc python -type f -not -name '*.pyc')
CXX_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.hpp' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh')

MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: test test-core test-asan test-tsan test-neon fuzz test-python test-wheel demo bench bench-large bench-all lint format wheel clean

test: test-core test-python

demo: $(VENV)/.installed-demo
	$(BIN)/rebasin-fast demo --out demo-output --force $(DEMO)

# Tables on the terminal; JSON, Markdown and a figure in build/bench. BENCH holds further options.
bench: $(VENV)/.installed-bench
	@mkdir -p build/bench
	$(BIN)/python bench/compare.py --install $(call outputs,quick) $(BENCH)

# Takes hours, and some 20 GiB of memory at n = 16384. A solver over the limit is not asked about larger sizes.
BENCH_LIMIT_SECONDS ?= 60
BENCH_LIMIT_GIB ?= 12
bench-large: $(VENV)/.installed-bench
	@mkdir -p build/bench
	$(BIN)/python bench/compare.py --install --suite large --limit-seconds $(BENCH_LIMIT_SECONDS) \
	  --limit-gib $(BENCH_LIMIT_GIB) $(call outputs,large) $(BENCH)

outputs = --json build/bench/$(1).json --markdown build/bench/$(1).md --plot build/bench/$(1).png

# What the comparison does not show, a script and a make target each: bench-memory and so on.
BENCH_SCRIPTS := small_calls batch warm_start threads memory
bench-all: $(BENCH_SCRIPTS:%=bench-%)
.PHONY: $(BENCH_SCRIPTS:%=bench-%)
$(BENCH_SCRIPTS:%=bench-%): bench-%: $(VENV)/.installed-bench
	@mkdir -p build/bench
	$(BIN)/python bench/install_peers.py lap lapx lapjv
	$(BIN)/python bench/$*.py --json build/bench/$*.json $(BENCH)

.PHONY: bench-matching
bench-matching: $(VENV)/.installed-test
	@mkdir -p build/bench
	$(BIN)/python bench/weight_matching.py --json build/bench/weight_matching.json $(BENCH)

# On a machine with a GPU: builds, tests there, lets compute-sanitizer look at some of the tests, and measures.
# GPU_TESTS names those that memcheck and racecheck see: each takes a hundred times as long there.
GPU_TESTS ?= test_every_dtype or test_a_stack or test_a_list or test_views or test_errors
SANITIZED = compute-sanitizer --target-processes all --error-exitcode 1
.PHONY: gpu
gpu: $(VENV)/.installed-test
	$(BIN)/python -c "from rebasin_fast import cuda; raise SystemExit(cuda.why_unavailable())"
	$(BIN)/python -m pytest -m gpu
	$(SANITIZED) --tool memcheck $(BIN)/python -m pytest -m gpu tests/test_cuda.py -k "$(GPU_TESTS)"
	$(SANITIZED) --tool racecheck $(BIN)/python -m pytest -m gpu tests/test_cuda.py -k "$(GPU_TESTS)"
	@mkdir -p build/bench
	$(BIN)/python bench/gpu.py --json build/bench/gpu.json $(BENCH)
	$(BIN)/python bench/gpu_matching.py --json build/bench/gpu_matching.json

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_SOURCES)

test-python: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST)

# The core and its C++ tests, without Python, once under the address and undefined-behaviour sanitizers and once under
# the thread sanitizer, which excludes the others.
test-core: test-asan test-tsan

test-asan: SANITIZE := address,undefined
test-tsan: SANITIZE := thread
test-asan test-tsan: $(VENV)/.build-tools
	cmake -S . -B build/$@ -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DREBASIN_FAST_PYTHON=OFF \
	  -DREBASIN_FAST_TESTS=ON -DREBASIN_FAST_SANITIZE=$(SANITIZE) --log-level=WARNING
	cmake --build build/$@ -- --quiet
	ctest --test-dir build/$@ --output-on-failure

# Searches for inputs that break the solver's contract; needs Clang. What it finds lies in build/fuzz/found and is had
# again, under any compiler, with build/test-asan/fuzz_replay FILE.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.build-tools
	cmake -S . -B build/fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER=clang++ \
	  -DREBASIN_FAST_PYTHON=OFF -DREBASIN_FAST_FUZZ=ON \
	  -DREBASIN_FAST_SANITIZE=fuzzer-no-link,address,undefined --log-level=WARNING
	cmake --build build/fuzz -- --quiet
	mkdir -p build/fuzz/corpus build/fuzz/found
	build/fuzz/fuzz_solve -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -len_control=0 -timeout=20 \
	  -artifact_prefix=build/fuzz/found/ build/fuzz/corpus

# The same tests for 64-bit ARM, emulated. Debian: apt install g++-aarch64-linux-gnu qemu-user
test-neon: $(VENV)/.build-tools
	@command -v aarch64-linux-gnu-g++ qemu-aarch64 > /dev/null \
	  || { echo "test-neon needs aarch64-linux-gnu-g++ and qemu-aarch64"; exit 1; }
	cmake -S . -B build/neon -G Ninja -DCMAKE_TOOLCHAIN_FILE=csrc/tests/aarch64.cmake -DREBASIN_FAST_PYTHON=OFF \
	  -DREBASIN_FAST_TESTS=ON --log-level=WARNING
	cmake --build build/neon -- --quiet
	ctest --test-dir build/neon --output-on-failure

wheel: $(VENV)/.build-tools
	$(PIP) wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

# The wheel alone: a clean environment, the tests copied away from the sources.
test-wheel: wheel
	rm -rf build/wheel-test && mkdir -p build/wheel-test
	$(PYTHON) -m venv build/wheel-test/venv
	build/wheel-test/venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
	  "$$(ls -t dist/rebasin_fast-*.whl | head -n 1)[test]"
	cp -r tests bench pyproject.toml build/wheel-test/
	cd build/wheel-test && venv/bin/python -m pytest

clean:
	rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks $(VENV)

$(VENV)/.build-tools: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt scikit-build-core pybind11 cmake ninja
	@touch $@

# mypy reads the sources themselves; it needs the types of numpy, typer and rich only.
$(VENV)/.installed-lint: $(VENV)/.build-tools
	$(PIP) install --quiet -c constraints.txt ruff mypy clang-format numpy typer rich
	@touch $@

$(VENV)/.installed-%: $(VENV)/.build-tools $(SOURCES)
	$(PIP) install --quiet --no-build-isolation -c constraints.txt '.[$*]'
	@touch $@
