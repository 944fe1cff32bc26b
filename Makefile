# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
# Needed: Python 3.11 to 3.13, make, and the package registries. No Docker, no root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# A fleet is a dozen processes, started again and again: let them keep what the first one compiled.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check bench chaos soak mutate lock clean

demo: $(VENV)/.installed  ## The main job on embedded servers (ARGS="--customers 2000" is the quick one).
	@$(BIN)/dripfleet demo $(ARGS)

test: $(VENV)/.installed  ## The tests, on servers of their own, a process a core up to four.
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.installed  ## What must be true of the code before it is run.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed  ## How near the fleet is to the wire (ARGS="--quick"); the last line is JSON.
	$(BIN)/python -m tests.bench.goals $(ARGS)

chaos: $(VENV)/.installed  ## The real fleet under random faults (ARGS="--minutes 3 --seed 7 --runs 10").
	$(BIN)/dripfleet chaos $(ARGS)

soak: $(VENV)/.installed  ## Half an hour of it, over three seeds.
	$(BIN)/dripfleet chaos --minutes 10 --runs 3 $(ARGS)

mutate: $(VENV)/.installed  ## Which guards could go unnoticed (ARGS="cycle --quick"); an hour for all.
	$(BIN)/python -m tests.mutation $(ARGS)

# pip needs minutes for what uv does in seconds; pip brings uv, uv does the rest.
$(VENV)/.installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@rm -rf build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

lock:  ## Resolve the dependencies anew, with hashes, for every platform.
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --all-extras --group dev --no-header --no-emit-index-url -o requirements.lock pyproject.toml

clean:  ## Take away what was made here, and nothing else.
	rm -rf $(VENV) build var .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
