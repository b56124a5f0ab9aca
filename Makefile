# Two commands on a fresh machine: `make demo` and `make test`. Everything else is here too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo up test quick check format bench chaos lock clean

demo: $(READY)
	$(BIN)/retouch demo

up: $(READY)
	$(BIN)/retouch up

# How many processes run the tests. They wait for servers more than they compute, so they may be more than the cores.
PROCESSES ?= 5
test: $(READY)
	$(BIN)/pytest -n $(PROCESSES) --dist worksteal

# What needs no server: for the moment after each edit.
quick: $(READY)
	$(BIN)/pytest -n $(PROCESSES) --dist worksteal tests/unit tests/contract

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint -c infra/deploy/.yamllint infra
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec infra/deploy/compose.yaml
	$(BIN)/hadolint infra/deploy/docker/Dockerfile

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(READY)
	$(BIN)/python -m infra.bench

MINUTES ?= 10
chaos: $(READY)
	$(BIN)/python -m infra.chaos.__main__ --minutes $(MINUTES)

# The pinned requirements, with hashes and without any registry's address: for a checkout, for the image, and for building
# the image. The image gets the versions that the tests ran with. Needs `uv`.
COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	--no-annotate --quiet
lock:
	$(COMPILE) pyproject.toml --extra local --extra otel --extra dev --output-file requirements.lock
	grep -E '^[a-z].*==' requirements.lock | sed 's/ \\$$//' > infra/deploy/docker/pins.txt
	$(COMPILE) pyproject.toml --extra otel --constraint infra/deploy/docker/pins.txt --output-file infra/deploy/docker/requirements.lock
	echo hatchling | $(COMPILE) - --constraint infra/deploy/docker/pins.txt --output-file infra/deploy/docker/build.lock
	rm infra/deploy/docker/pins.txt

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Retouch needs Python 3.11 or newer: name one with 'make PYTHON=python3.12 …'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) .retouch build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
