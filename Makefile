# Everything needs only Python >= 3.11, make and a package registry.
#
#   make demo            install, record runs, probe, audit, serve the dashboard on localhost
#   make demo HEADLESS=1 the same without serving: prints the summary table and ends
#   make test            install, lint, format check, types, tests
#   make lint | format   the checks alone | apply formatting and safe fixes

PYTHON ?= python3
RUNS ?= runs/demo
HEADLESS ?=
TEST_WORKERS ?= 2
# Small models gain nothing from a second thread and lose a lot to contention.
export OMP_NUM_THREADS ?= 1

VENV := .venv
BIN := $(VENV)/bin
KEY := $(shell $(PYTHON) -c 'import hashlib, os, pathlib, sys; print(hashlib.sha256(b"".join(pathlib.Path(p).read_bytes() for p in ("pyproject.toml", "constraints.txt")) + (sys.version + os.getcwd()).encode()).hexdigest()[:16])')
STAMP := $(VENV)/installed-$(KEY)
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq

.PHONY: demo test lint format install browser
.DEFAULT_GOAL := test

install: $(STAMP)

# torch goes first and alone: a CPU wheel beside the registry satisfies the exact pin, whereas a
# range asked for together with other packages may pull the newest build with its GPU libraries.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11")'
	@echo "installing into $(VENV) (first time, or pins have changed)"
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) torch==2.13.0 -c constraints.txt
	$(PIP) -e '.[dev]' -c constraints.txt
# Left by the build, never refreshed by a later one, and found before the installed entry points.
	@rm -rf *.egg-info
	@touch $@

demo: $(STAMP)
	$(BIN)/nfcot demo --runs-dir $(RUNS) $(if $(filter-out 0 no false,$(HEADLESS)),--headless)

test: lint browser
	$(BIN)/pytest -n $(TEST_WORKERS) --durations=10

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

browser:
	@sh .ci/browser
