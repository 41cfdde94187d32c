# Every target sets up what it needs; a second run installs nothing.
# make demo | test | check | chaos | bench | lab | help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
AZURITE := lab/front/node_modules/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check chaos bench bench-data bench-site bench-recovery lab setup clean

help: ## Say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(INSTALLED) $(AZURITE) ## Install everything from the lock files: Python packages and Azurite

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Deltaferry needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Say which one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "Installing Python packages into $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(AZURITE): lab/front/package-lock.json $(INSTALLED)
	@echo "Installing Azurite into lab/front/node_modules …"
	@$(BIN)/python -m lab.tools
	@touch $@

demo: setup ## Replicate and migrate one VM in the lab, and prove that nothing was lost (DEMO="--keep --json")
	@$(BIN)/deltaferry demo $(DEMO)

lab: setup ## Run the lab alone in the foreground, with the addresses and credentials to use it
	@$(BIN)/deltaferry lab

check: setup ## Style, types, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/unit/test_imports.py

test: setup ## Everything but the enumerated faults: unit, workflows, replay, end to end; three at a time
	@$(BIN)/python -m pytest -m "not chaos" -n 3 --dist loadfile

chaos: setup ## The enumerated faults, which take longer
	@$(BIN)/python -m pytest -m chaos

bench: bench-data bench-site bench-recovery ## Every benchmark: measured side by side on this machine, a table, and .bench/results.json

bench-data: setup ## The data plane's speed
	@$(BIN)/python -m tests.bench data

bench-site: setup ## A whole site: the throttle, the arbiter
	@$(BIN)/python -m tests.bench site

bench-recovery: setup ## Failover time against disk size, and what reprotect sends
	@$(BIN)/python -m tests.bench recovery

clean: ## Remove what was installed and what labs left behind
	@rm -rf $(VENV) .lab .bench lab/front/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
