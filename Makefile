# Two commands set everything up: `make demo` and `make test`. Both need only Python 3.11+ with venv and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
LEARNING ?= learning
BENCH ?= bench
CLIPS ?= ../shared/data/clips
TEXT ?= ../shared/data/text

FUZZ_CASES ?= 2000

.PHONY: demo learning bench fuzz test check lint types clean help

help:
	@echo "make demo      install, make a small narrated video world, run the whole chain on it, print the scores"
	@echo "make test      install with the dev extra and run the tests"
	@echo "make check     lint, types and tests: what CI runs"
	@echo "make fuzz      read thousands of damaged files"
	@echo "make learning  train every cell of the learning table on the demo world (hours; goes on where it was)"
	@echo "make bench     measure the speed beside peers, in $(BENCH)/ (hours; BENCH_OPTIONS=--quick: minutes, tiny inputs, nothing judged)"
	@echo "make clean     remove the virtual environment, caches and $(DEMO)/"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[embedded]"
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[embedded,dev]"
	@touch $@ $(VENV)/installed

demo: $(VENV)/installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash docs/demo.sh $(DEMO)

learning: $(VENV)/installed
	$(BIN)/python tests/benchmarks/learning.py $(LEARNING)

bench: $(VENV)/installed-dev
	$(BIN)/python tests/benchmarks/speed.py $(BENCH) --clips $(CLIPS) --text $(TEXT) $(BENCH_OPTIONS)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 8

fuzz: $(VENV)/installed-dev
	FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python -m pytest tests/fuzz

lint: $(VENV)/installed-dev
	$(BIN)/ruff check vbcli tests
	$(BIN)/ruff format --check vbcli tests

types: $(VENV)/installed-dev
	$(BIN)/pyright

# Beside each other: tests often wait for processes that they start.
check: $(VENV)/installed-dev
	@$(MAKE) --no-print-directory --jobs 3 lint types test

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
