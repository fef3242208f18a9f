# `make demo` and `make test` work from a bare clone on a machine with Python 3.11 or newer, pip and make.
#
#   PYTHON   the interpreter that makes the environment    make test PYTHON=python3.12
#   VENV     where the environment lives                   make test VENV=/some/folder
#   ARGS     further arguments of pytest or of the demo    make test ARGS="tests/test_ir.py -x"
#   WORKERS  test processes: a number, or auto             make test WORKERS=1

PYTHON  ?= python3
VENV    ?= .venv
WORKERS ?= auto
ARGS    ?=

BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check
PYTEST  := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal
TORCH   := $(shell sed -n 's/^\(torch==[0-9][^ ]*\).*/\1/p' requirements-cpu.txt)
SOURCES := flame_triton tests $(wildcard bench) $(wildcard examples)
INSTALL := $(VENV)/.installed-package

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-all format lint lint-style lint-format lint-types lint-imports clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALL)  ## make the environment and install everything into it

demo: $(INSTALL)  ## train a small diffusion model that draws digits
	$(BIN)/flame-triton train digits $(ARGS)

test: $(INSTALL)  ## run the tests, without the slow ones
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(INSTALL)  ## run every test
	$(PYTEST) $(ARGS)

format: $(INSTALL)  ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

lint: lint-style lint-format lint-types lint-imports  ## check style, format, types and import rules

lint-style: $(INSTALL)
	$(BIN)/ruff check $(SOURCES)

lint-format: $(INSTALL)
	$(BIN)/ruff format --check $(SOURCES)

lint-types: $(INSTALL)
	$(BIN)/pyright --pythonpath $(BIN)/python

lint-imports: $(INSTALL)
	$(BIN)/lint-imports --no-logo

clean:  ## remove the environment, caches and build output (runs/ is kept)
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find flame_triton tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Each step of the installation leaves a stamp, so that it runs again only when its input has changed.

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "error: '$(PYTHON)' is not on the path. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: flame_triton needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) -V) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed-torch: $(VENV)/.made requirements-cpu.txt
	@test -n "$(TORCH)" || { echo "error: requirements-cpu.txt names no torch==VERSION" >&2; exit 1; }
	@echo "Installing $(TORCH) into $(VENV) (once; the largest download) ..."
	@$(PIP) install --quiet $(TORCH)
	@touch $@

$(VENV)/.installed-requirements: $(VENV)/.installed-torch requirements-cpu.txt
	@echo "Installing the other packages of requirements-cpu.txt ..."
	@$(PIP) install --quiet -r requirements-cpu.txt
	@touch $@

$(INSTALL): $(VENV)/.installed-requirements pyproject.toml
	@echo "Installing flame_triton itself, editable ..."
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
