# The project's own commands. They need Python 3.11 to 3.13 and make, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-cluster lint lock wheel clean

help:  ## Show what there is.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo:  ## Photographs to report, on this machine, in minutes.
	@if $(MAKE) --question $(VENV)/.installed 2>/dev/null; \
	  then echo "Reused: $(VENV), the environment"; else $(MAKE) --no-print-directory $(VENV)/.installed; fi
	@$(BIN)/laser-jnd demo

test: $(VENV)/.installed-dev lint  ## Every check and every test this machine can run.
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not alone"
	@$(BIN)/python -m pytest -m alone

test-cluster: $(VENV)/.installed-dev  ## Train across two hosts, one of which is cut off; needs root.
	@$(BIN)/python tests/two_hosts/acts.py $(ARGS)

lint: $(VENV)/.installed-dev  ## Format, lint and type checks.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright

lock: $(VENV)/.installed-dev  ## Resolve the pinned set anew, for every Python we support.
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras --upgrade \
	  --no-header --no-emit-index-url --no-emit-find-links --no-annotate -q pyproject.toml -o requirements.lock

wheel: $(VENV)/.installed-dev  ## Build the wheel under dist/.
	$(BIN)/python -m build --wheel

clean:  ## Remove the environment and what was built; runs/ stays.
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/uv: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12 ...")'
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock uv
	@touch $@

$(VENV)/.installed: $(VENV)/bin/uv pyproject.toml
	@echo "Installing the pinned packages into $(VENV) (about 1.5 GB, once)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Adding the test tools to $(VENV)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable '.[dev]'
	@touch $@
