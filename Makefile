# Two commands do all the set-up: `make demo` and `make test`. Each builds what it needs in .venv, once.

PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

# One BLAS thread per worker: the tests run side by side, and threads that compete are slower than one.
export OMP_NUM_THREADS ?= 1
# The examples and tests make their own data; nothing is fetched from a model hub.
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint pages docs calibrate clean

demo: .venv/demo.stamp
	$(BIN)/gradguard report examples/digits.py
	@echo
	@echo "Now the loop that many explanations of backpropagation print. Its findings are meant, so exit code 1 is right:"
	@echo
	$(BIN)/gradguard report examples/textbook_backprop.py; test $$? -eq 1

test: .venv/tests.stamp .venv/oldest.stamp lint
	GRADGUARD_OLDEST_PYTEST=$(CURDIR)/.venv/oldest $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

lint: .venv/tests.stamp
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary

# After a change of a rule's docstring or of what the examples show: tests/test_docs.py asks for it.
pages: .venv/demo.stamp
	$(BIN)/python docs/pages.py

docs: .venv/docs.stamp
	$(BIN)/sphinx-build -W -q docs build/docs

# The pages of docs/calibration, each with its commit: about an hour on one core.
CALIBRATE_ARGS ?=
calibrate: .venv/tests.stamp
	$(BIN)/python -m benchmarks.learning_rate.calibrate $(CALIBRATE_ARGS)

clean:
	rm -rf .venv build

.venv/python.stamp: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "gradguard needs Python 3.11 or newer; name one: make PYTHON=python3.11 test")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/demo.stamp: .venv/python.stamp pyproject.toml
	$(PIP) --editable '.[examples]'
	@touch $@

.venv/tests.stamp: .venv/python.stamp pyproject.toml
	$(PIP) --editable '.[tests]'
	@touch $@

# The oldest pytest that the plugin supports, beside the newest: tests/integrations/test_matrix.py runs both.
.venv/oldest.stamp: .venv/python.stamp
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --target .venv/oldest \
		pytest==8.2.0 pluggy==1.5.0 iniconfig packaging
	@touch $@

.venv/docs.stamp: .venv/python.stamp pyproject.toml
	$(PIP) --editable '.[docs]'
	@touch $@
