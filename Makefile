# `make sweep` and `make test` need python3 and make, nothing else; a C++ compiler gives them the compiled kernels.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2

SANITIZED := build/sanitized
NATIVE := dorefa_jax/kernels/src
# All but XLA's handlers, which alone need jaxlib's headers.
NATIVE_SOURCES = find $(NATIVE) -name '*.cc' -not -path '*/ffi/*'

.PHONY: compiled sanitize no-compiler other-jaxlib sweep test test-unit test-core test-slow lint types doctest wheel notebooks small-sweep benchmark check constraints clean

sweep: $(VENV)/.core
	@echo "== bit widths against channel widths: 8 trials, about 5 minutes on two cores"
	$(BIN)/python -m experiments.sweep --config=configs/svhn_grid.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -q

# What depends on the generation of JAX.
test-unit: $(VENV)/.test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -q --ignore=tests/integration --ignore=tests/faults \
	  --ignore=tests/kernels/test_native.py --ignore=tests/kernels/test_native_training.py \
	  --ignore=tests/kernels/test_native_blocks.py --ignore=tests/inference/test_fuzz.py \
	  --ignore=tests/inference/test_thresholds.py --ignore=tests/study/data

# What users call, for one more interpreter with a generation of JAX on which all of test-unit ran.
CORE := tests/test_bits.py tests/methods/test_dorefa.py tests/ops/test_products.py tests/linen tests/nnx \
  tests/models tests/kernels/test_kernels.py tests/inference/test_freeze.py tests/study/test_cli.py \
  tests/study/test_config.py
test-core: $(VENV)/.test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -q $(CORE)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -q -m slow

# The extension is optional, and tests of kernels are skipped without it: where it must be there, this says so.
compiled: $(VENV)/.core
	$(BIN)/python -c "import dorefa_jax; found = dorefa_jax.kernels.available(); print(found); assert found.is_compiled, found"

doctest: $(VENV)/.test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -q --doctest-modules dorefa_jax dorefa_study --ignore=dorefa_study/configs

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

# The compiled kernels with AddressSanitizer and UndefinedBehaviorSanitizer, on every path that the processor has, and on
# AMX's in any case where it has AVX-512: its instructions are then in software.
SOFTWARE_AMX = $(shell grep -q amx_int8 /proc/cpuinfo 2>/dev/null || echo -DDOREFA_SOFTWARE_AMX)
sanitize: $(VENV)/.test $(SANITIZED)/library.so
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 DOREFA_JAX_TEST_LIBRARY=$(SANITIZED)/library.so \
	  $(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) tests/kernels/test_native.py tests/kernels/test_native_training.py \
	  tests/kernels/test_native_blocks.py tests/inference/test_fuzz.py

$(SANITIZED)/library.so: $(wildcard $(NATIVE)/* $(NATIVE)/*/*)
	mkdir -p $(SANITIZED)
	$(NATIVE_SOURCES) | xargs -P 2 -I{} sh -c '$(CXX) -O1 -g -std=c++17 -ffp-contract=off -I$(NATIVE) $(SOFTWARE_AMX) \
	  -fsanitize=address,undefined -fno-sanitize-recover=all -fPIC -c {} -o $(SANITIZED)/$$(basename {}).o'
	$(CXX) -shared -fsanitize=address,undefined $(SANITIZED)/*.o -o $@ -pthread

# Built, then imported where nothing but the wheel and what it asks for is installed; then the study with its extra.
wheel: $(VENV)/.test
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel .
	$(PYTHON) -m venv --clear build/wheel/venv
	build/wheel/venv/bin/pip install -q -c constraints.txt build/wheel/*.whl
	cd build/wheel && venv/bin/python -W error -c \
	  "import dorefa_jax as d; print(d.__version__, d.BitWidths(1, 2, 4), d.kernels.available())"
	cd build/wheel && venv/bin/dorefa-sweep --config=svhn_grid 2>&1 | grep "pip install 'dorefa-jax\[study\]'"
	build/wheel/venv/bin/pip install -q -c constraints.txt "$$(echo build/wheel/*.whl)[study]"
	cd build/wheel && venv/bin/dorefa-sweep --config=svhn_first_last --dry_run | tail -1

# The installation must succeed where nothing compiles, and say what is missing.
no-compiler: $(VENV)/.core
	rm -rf build/no_compiler && mkdir -p build/no_compiler
	git archive --prefix=source/ HEAD | tar -x -C build/no_compiler
	CC=false CXX=false $(BIN)/pip install -q --no-deps --target build/no_compiler/site build/no_compiler/source
	cd build/no_compiler && PYTHONPATH=site $(CURDIR)/$(BIN)/python -W error -c \
	  "import dorefa_jax; found = dorefa_jax.kernels.available(); print(found); assert found.path == 'xla', found"

# The kernels compiled with the headers of one jaxlib, opened by another, both ways: the newest that pip finds, and the
# oldest that pyproject.toml allows. Only handlers include the headers, so that the rest is compiled once.
OTHER := build/other_jaxlib
other-jaxlib: $(OTHER)/oldest/.done $(OTHER)/newest/.done
	rm -rf $(OTHER)/objects && mkdir -p $(OTHER)/objects
	$(NATIVE_SOURCES) | xargs -P 2 -I{} sh -c '$(CXX) -O1 -std=c++17 -ffp-contract=off -I$(NATIVE) -fPIC -c {} \
	  -o $(OTHER)/objects/$$(basename {}).o'
	$(call compile_with,oldest)
	$(call compile_with,newest)
	cd $(OTHER)/with_newest && ../oldest/bin/python -W error check.py $(call headers,newest)
	cd $(OTHER)/with_oldest && ../newest/bin/python -W error check.py $(call headers,oldest)

headers = $$($(CURDIR)/$(OTHER)/$(1)/bin/python -c "import jaxlib; print(jaxlib.__path__[0] + '/include')")

# A copy of the package, with a library whose handlers were compiled in one of the two environments.
define compile_with
	rm -rf $(OTHER)/with_$(1) && mkdir -p $(OTHER)/with_$(1)
	cp -r dorefa_jax tests/kernels/check.py $(OTHER)/with_$(1) && rm -f $(OTHER)/with_$(1)/dorefa_jax/kernels/_native*
	$(CXX) -O1 -std=c++17 -fPIC -shared -I$(NATIVE) -isystem $(call headers,$(1)) $(NATIVE)/ffi/*.cc $(OTHER)/objects/*.o \
	  -o $(OTHER)/with_$(1)/dorefa_jax/kernels/_native.so -pthread
endef

$(OTHER)/oldest/.done: pyproject.toml
	$(PYTHON) -m venv --clear $(OTHER)/oldest
	$(OTHER)/oldest/bin/pip install -q jax==0.7.2 jaxlib==0.7.2 flax
	touch $@

$(OTHER)/newest/.done: pyproject.toml
	$(PYTHON) -m venv --clear $(OTHER)/newest
	$(OTHER)/newest/bin/pip install -q jax flax
	touch $@

notebooks: $(VENV)/.notebooks
	PYDEVD_DISABLE_FILE_VALIDATION=1 $(BIN)/python -m pytest -q -p no:xdist --nbmake notebooks tests/notebooks

small-sweep: $(VENV)/.core
	rm -rf build/small_sweep
	$(BIN)/python -m experiments.sweep --config=configs/svhn_grid.py --workdir=build/small_sweep \
	  --config.grid.bits='1,2,4;32,32,32' --config.grid.widths=0.125 --config.train.epochs=1 \
	  --config.data.train_size=1280 --config.data.test_size=500

benchmark: $(VENV)/.core
	taskset -c 1 $(BIN)/python -m benchmarks.training_step
	taskset -c 1 $(BIN)/python -m benchmarks.residual_step
	taskset -c 1 $(BIN)/python -m benchmarks.kernels
	taskset -c 1 $(BIN)/python -m benchmarks.inference

check: compiled lint types test doctest sanitize wheel no-compiler other-jaxlib notebooks small-sweep

# Needs uv; the result names versions, no hosts.
constraints:
	uv pip compile pyproject.toml --all-extras --universal --no-header --no-annotate -o constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml setup.py constraints.txt $(wildcard $(NATIVE)/* $(NATIVE)/*/*) | $(VENV)/bin/python
	@echo "== installing JAX and its friends, and compiling the integer kernels: 2 to 5 minutes, once"
	$(BIN)/pip install -q -c constraints.txt -e '.[study]'
	touch $@

# What extras ask for, without installing, and compiling, the package a second time.
install_extras = $(BIN)/python -c "import sys, tomllib; \
  extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; \
  print(*(line for name in sys.argv[1:] for line in extras[name]), sep='\n')" $(1) > $(VENV)/extras.txt && \
  $(BIN)/pip install -q -c constraints.txt -r $(VENV)/extras.txt

$(VENV)/.test: $(VENV)/.core
	$(call install_extras,test tensorboard)
	touch $@

$(VENV)/.notebooks: $(VENV)/.test
	$(call install_extras,notebooks)
	touch $@
