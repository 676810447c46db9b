# `make sweep` and `make test` need python3 and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2

.PHONY: sweep test test-unit test-slow lint types doctest wheel notebooks small-sweep benchmark check constraints clean

sweep: $(VENV)/.core
	$(BIN)/python -m experiments.sweep --config=configs/svhn_grid.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -q

test-unit: $(VENV)/.test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -q --ignore=tests/integration

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -q -m slow

doctest: $(VENV)/.test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -q --doctest-modules dorefa_jax experiments

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

# Built, then imported where nothing but the wheel and what it asks for is installed.
wheel: $(VENV)/.test
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel .
	$(PYTHON) -m venv --clear build/wheel/venv
	build/wheel/venv/bin/pip install -q -c constraints.txt build/wheel/*.whl
	cd build/wheel && venv/bin/python -W error -c "import dorefa_jax as d; print(d.__version__, d.BitWidths(1, 2, 4))"

notebooks: $(VENV)/.notebooks
	PYDEVD_DISABLE_FILE_VALIDATION=1 $(BIN)/python -m pytest -q -p no:xdist --nbmake notebooks tests/notebooks

small-sweep: $(VENV)/.core
	rm -rf build/small_sweep
	$(BIN)/python -m experiments.sweep --config=configs/svhn_grid.py --workdir=build/small_sweep \
	  --config.grid.bits='1,2,4;32,32,32' --config.grid.widths=0.125 --config.train.epochs=1 \
	  --config.data.train_size=1280 --config.data.test_size=500

benchmark: $(VENV)/.core
	taskset -c 1 $(BIN)/python -m benchmarks.training_step

check: lint types test doctest wheel notebooks small-sweep

# Needs uv; the result names versions, no hosts.
constraints:
	uv pip compile pyproject.toml --all-extras --universal --no-header --no-annotate -o constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(BIN)/pip install -q -c constraints.txt -e '.[test,tensorboard]'
	touch $@

$(VENV)/.notebooks: $(VENV)/.test
	$(BIN)/pip install -q -c constraints.txt -e '.[notebooks]'
	touch $@
