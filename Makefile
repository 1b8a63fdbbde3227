# make help tells what there is.
VENV ?= .venv
# Interpreter for the virtual environment; the first suitable one of the list below if not given.
PYTHON ?=
# More arguments for pip, such as another index: make setup PIP_ARGS="--extra-index-url https://..."
PIP_ARGS ?=
# More arguments for what a target runs: make quickstart ARGS=--short, make test ARGS="-k bridge"
ARGS ?=

IN_VENV = $(VENV)/bin/python
INSTALL = $(IN_VENV) -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
INSTALLED_FROM = $(IN_VENV) pyproject.toml constraints.txt

# Processes that run tests side by side, on one thread each: threads of several processes wait for one another.
TEST_PROCESSES ?= 2

.PHONY: help setup setup-all quickstart test lint
.DEFAULT_GOAL := help

help:
	@echo "make setup       create $(VENV) and install the project into it"
	@echo "make quickstart  setup, then fetch real parts, build shards, train two models, evaluate them, show the result"
	@echo "make test        setup, then run the quick tests; the slow ones: make test ARGS='-m slow'"
	@echo "make lint        setup, then check style and types"

setup: $(VENV)/.installed

# Everything that the other targets need, by one call of pip in place of three.
setup-all: $(VENV)/.installed-all

quickstart: setup
	$(IN_VENV) -m apps.quickstart $(ARGS)

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(IN_VENV) -m pytest -n $(TEST_PROCESSES) --dist loadgroup $(ARGS)

lint: $(VENV)/.installed-lint
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .
	$(IN_VENV) -m mypy --strict components lightning_modules datamodules membridge command_errors.py torchvision_import.py

# One pip call for everything: a second call could replace the pinned torch by another build.
$(VENV)/.installed: $(INSTALLED_FROM)
	$(INSTALL) -e ".[quickstart]"
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) -e ".[quickstart,test]"
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	$(INSTALL) -e ".[quickstart,lint]"
	@touch $@

$(VENV)/.installed-all: $(INSTALLED_FROM)
	$(INSTALL) -e ".[quickstart,test,lint]"
	@touch $(VENV)/.installed $(VENV)/.installed-test $(VENV)/.installed-lint $@

SUITABLE = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))

$(IN_VENV):
	@for candidate in $(or $(PYTHON),python3.11 python3.12 python3); do \
		if $$candidate -c '$(SUITABLE)' 2>/dev/null; then \
			echo "creating $(VENV) with $$($$candidate --version)"; \
			rm -rf "$(VENV)"; \
			exec $$candidate -m venv "$(VENV)"; \
		fi; \
	done; \
	echo "No suitable Python among: $(or $(PYTHON),python3.11 python3.12 python3)." >&2; \
	echo "Needed: Python 3.11 or 3.12 with the modules venv and ensurepip (Debian and Ubuntu: the package python3-venv)." >&2; \
	echo "Name one with: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; \
	exit 1
