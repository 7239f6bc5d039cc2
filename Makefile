# One command per chore; every target sets up what it needs (interface: README, CONTRIBUTING).
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SCENARIO ?= real
ARGS ?=

.PHONY: setup demo test test-quick test-deep lint layers types drift-cases bench bench-report testbed clean

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.txt
	@echo "setting up $(VENV) (about half a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

testbed: setup
	@$(BIN)/python -m tests.testbed build

demo: setup
	@$(BIN)/fleet demo --real $(ARGS)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test-quick: lint drift-cases
	@$(BIN)/python -m pytest -m "not real and not deep" $(ARGS)

test: lint testbed drift-cases
	@$(BIN)/python -m pytest -m "not deep" $(ARGS)

test-deep: setup testbed
	@FLEET_DEEP=1 $(BIN)/python -m pytest $(ARGS)

drift-cases: setup
	@$(BIN)/python -m tests.drift_cases

bench: setup testbed
	@$(BIN)/python -m loadtest $(SCENARIO) $(ARGS)

bench-report: setup
	@$(BIN)/python -m loadtest.report

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
