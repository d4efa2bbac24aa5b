# Pushwright. `make demo` shows it at work, `make test` checks everything; both install what they need.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
# further arguments for pytest, as in: make test PYTEST_ARGS="-m 'not docker'"
PYTEST_ARGS ?=
DEMO_ARGS ?=
# arguments for the benchmark, as in: make bench BENCH_ARGS="--only 1,8 --runs 3"
BENCH_ARGS ?=

# newuidmap, dockerd and docker-registry may be where an ordinary user's PATH does not look
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check lint typecheck unit test-pythons format compose-env bench clean packages-demo packages-test packages-bench venv venv-dev

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: packages-demo venv ## a push becomes a tagged image, on this machine, from nothing
	@$(BIN)/python examples/demo.py $(DEMO_ARGS)

test: packages-test venv-dev check ## everything: linters, types, and all tests against real servers
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint typecheck

lint: venv-dev ## ruff: rules and format
	@echo "ruff check"; $(BIN)/ruff check .
	@echo "ruff format --check"; $(BIN)/ruff format --check .

typecheck: venv-dev ## mypy --strict
	@echo "mypy"; $(BIN)/mypy

unit: venv-dev ## the tests that need no servers
	@$(BIN)/python -m pytest tests/unit tests/property tests/golden $(PYTEST_ARGS)

test-pythons: ## the tests that need no servers, on each supported Python found here
	@found=0; \
	for version in 3.11 3.12 3.13; do \
	    if ! "python$$version" -c '' 2>/dev/null; then echo "python$$version: not on this machine"; continue; fi; \
	    found=1; echo "python$$version"; \
	    PYTHON="python$$version" .ci/venv "build/pythons/$$version" dev; \
	    "build/pythons/$$version/bin/python" -m pytest tests/unit tests/property tests/golden $(PYTEST_ARGS); \
	done; \
	test "$$found" = 1

format: venv-dev ## ruff: write the format and the safe fixes
	@$(BIN)/ruff check --fix .; $(BIN)/ruff format .

bench: packages-bench venv ## Pushwright beside other builders; bench/README.md says how to read it
	@$(BIN)/python -m bench $(BENCH_ARGS)

compose-env: ## .env and deploy/secrets/ for docker-compose.yml, with fresh passwords
	@$$(.ci/python) deploy/make_env.py

packages-demo packages-test packages-bench: packages-%:
	@.ci/packages $*

venv:
	@.ci/venv $(VENV)

venv-dev:
	@.ci/venv $(VENV) dev

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
