# make repro, make test: each sets up .venv first and is enough on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup repro test test-slow lint bench torture transfer-table clean

setup: $(STAMP) ## make .venv with everything pinned in requirements.lock

# uv installs in seconds; without one on PATH, pip installs it into the environment first.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "embedpipe needs Python 3.11 or newer, found $$($(PYTHON) -V); run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo 'setting up $(VENV): about a minute with uv, a few without'
	@$(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || $(BIN)/python -m pip install --quiet uv
	@UV=$$(command -v uv || echo $(BIN)/uv); \
	$$UV pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock && \
	$$UV pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

repro: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro
	@$(BIN)/embedpipe info

# a process a core, each with one thread of its own
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check embedpipe stages tests benchmarks examples docs
	$(BIN)/ruff format --check embedpipe stages tests benchmarks examples docs
	$(BIN)/mypy
	$(BIN)/lint-imports

# each script ends its output with one JSON object of named figures
bench: setup
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# SIGKILL at random instants over a store's whole life, a disk that is really full, and a no-op on a million rows
torture: setup
	$(BIN)/python -m pytest tests/torture -s
	$(BIN)/python tests/torture/full_disk.py
	$(BIN)/python tests/torture/noop.py

# who wins where at 5, 10, 50 and all labels a class: examples/transfer/README.md
transfer-table: setup
	@for step in ingest source extract train select transfer compare report; do \
	  $(BIN)/embedpipe --project examples/transfer $$step || exit 1; done
	$(BIN)/python examples/transfer/table.py

clean:
	rm -rf $(VENV)
