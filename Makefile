# Needs Python >= 3.11 and make. `make demo` and `make test` are all that a fresh machine has to type.
#   PYTHON=python3.12 make venv         another Python
#   make venv PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
#                                       PyTorch without CUDA on Linux: 200 MB instead of several GB
PYTHON ?= python3
PIP_OPTIONS ?=
TESTS ?= tests
NAME ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_OPTIONS)

.DEFAULT_GOAL := help
.PHONY: help venv demo test lab lint bench clean chromium

help:
	@echo "make demo    a real cluster of MPI ranks trains handwritten digits with three strategies"
	@echo "make test    the test suite (with a Chromium for the browser tests where one can be had)"
	@echo "make lab     JupyterLab with the first notebook"
	@echo "make bench   measure the bench itself: NAME=step for one benchmark (ddp start step command telemetry view exchange overlap factors tcp stragglers servers gossip drift curves)"
	@echo "make lint    ruff and mypy"
	@echo "make venv    only make the environment, in .venv"
	@echo "make clean   remove .venv and caches; runs are kept"

venv: .venv/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "sgd-workbench needs Python 3.11 or newer, $(PYTHON) is older: PYTHON=python3.12 make ..."; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into .venv (a minute or two the first time)"
	@$(PIP) -e .
	@touch $@

.venv/.installed-test: .venv/.installed
	@$(PIP) -e '.[test]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	@$(PIP) -e '.[dev]'
	@touch $@

demo: .venv/.installed
	@$(BIN)/workbench demo

lab: .venv/.installed
	@$(BIN)/workbench lab

bench: .venv/.installed
	@$(BIN)/workbench bench $(NAME)

test: .venv/.installed-test chromium
	@$(BIN)/python -m pytest $(TESTS)

lint: .venv/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

# The browser tests run where there is a Chromium; nothing else needs one.
chromium:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing Chromium for the browser tests"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 || \
	    echo "Chromium could not be installed: the browser tests will be skipped"; \
	else \
	    echo "no Chromium here: the browser tests will be skipped (Debian and Ubuntu: sudo apt-get install chromium)"; \
	fi

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
