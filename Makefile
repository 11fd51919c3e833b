# `make help` lists what there is. Everything is installed in .venv, with the exact versions of constraints.txt.
#
# PYTHON    the Python that .venv is made of; default: the first that is 3.11 or newer
# PIP_ARGS  more arguments for pip, for example another index (docs/install.md)
# ARGS      more arguments for the command that a target ends in: make demo ARGS="--scale 40"
# JOBS      how many processes make test runs on; default: 2. 0 runs them in the one that --pdb and -s need

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Each is started, not just looked for: pyenv has shims of Pythons that don't run, and Debian's may lack ensurepip.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$python && break; done)
PIP_ARGS ?=
ARGS ?=
JOBS ?= 2

BIN := .venv/bin
MODULES = $(shell find dtk -name '*.py')

# What each target installs; the stamp of a set of extras is older than the files that it was installed from.
EXTRAS_demo := demo
EXTRAS_test := test,demo
EXTRAS_check := dev
EXTRAS_bench := bench
EXTRAS_docs := docs

.PHONY: help demo test slow soak check lint types layers docstrings bench docs clean

help: ## list the targets
	@grep -hE '^[a-z]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.* ## /  make \1\t/' | expand -t 14

demo: .venv/.installed-demo ## open, profile, train on two ranks, evaluate, save and predict, on the flights of 2013
	@$(BIN)/dtk demo $(ARGS)

test: .venv/.installed-test ## run the tests and the examples in docstrings, but for the slow ones
	@$(BIN)/python -m pytest -n $(JOBS) --doctest-modules -m "not slow" dtk tests $(ARGS)
	@echo "!!! SKIPPED: the slow tests (the demo, the notebooks, workers that hang or die); run them with: make slow"

slow: .venv/.installed-test ## run the slow tests, which CI runs as well
	@$(BIN)/python -m pytest -m "slow and not soak" tests $(ARGS)
	@echo "!!! SKIPPED: the soak (more ways to break a training, and 30 of them broken at random); run it with: make soak"

soak: .venv/.installed-test ## break trainings in more ways, and 30 of them at random; each must end as if nothing had happened
	@$(BIN)/python -m pytest -m soak tests
	@$(BIN)/python -m tests.soak $(ARGS)

check: lint types layers docstrings ## what CI checks before the tests; make -k check goes on after a failure

lint: .venv/.installed-check
	@echo "ruff"; $(BIN)/ruff check .; $(BIN)/ruff format --check .

types: .venv/.installed-check
	@echo "mypy"; $(BIN)/mypy

layers: .venv/.installed-check
	@echo "import-linter"; $(BIN)/lint-imports

docstrings: .venv/.installed-check
	@echo "numpydoc"; $(BIN)/numpydoc lint $(MODULES)

bench: .venv/.installed-bench ## run the benchmark NAME (default: demo); python -m benchmarks lists them
	@$(BIN)/python -m benchmarks $(or $(NAME),demo) $(ARGS)

docs: .venv/.installed-docs ## build the documentation into docs/_build/html; warnings are errors
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html $(ARGS)
	@echo "docs/_build/html/index.html"

clean: ## remove .venv, caches and what the documentation's build left
	rm -rf .venv build dist docs/_build docs/generated .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

.venv/.made:
	@[ -n "$(PYTHON)" ] || { echo "dtk needs Python 3.11 or newer (with venv and ensurepip), and none is on the PATH;" \
		"name yours: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "PYTHON=$(PYTHON) does not run or is older than 3.11; name a newer one" >&2; exit 1; }
	@echo "making .venv with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv --clear .venv
	@touch $@

.venv/.installed-%: pyproject.toml constraints.txt | .venv/.made
	@echo "installing dtk with the extras $(EXTRAS_$*) into .venv (about two minutes the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) \
		-c constraints.txt -e '.[$(EXTRAS_$*)]'
	@touch $@
