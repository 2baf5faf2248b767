# Two commands do everything on a fresh machine with Python 3.11+: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
export HYPOTHESIS_PROFILE ?= ci

.PHONY: install demo test test-deep bench lint clean

install: $(STAMP)

# torch first and pinned: another package must not replace it by a build with gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[dev,demo]'
	touch $@

demo: install
	$(BIN)/python -m leptonc.bench.demo

test: install
	$(BIN)/python -m pytest -m 'not slow'

test-deep: install
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest

bench: install
	$(PIP) install -c constraints.txt -e '.[bench]'
	$(BIN)/leptonc bench --suite tiny,cnn,encoder --peers all

lint: install
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

clean:
	rm -rf $(VENV) build dist *.egg-info
