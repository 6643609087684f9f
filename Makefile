# Commands for developers. They need only Python 3.11 to 3.13 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo light check fast test test-cluster coverage docs docs-assets notebook lint format lock wheel clean

# Tests that take more than a few seconds, alone or all of a file; start servers; or need hardware.
SLOW := slow or ray or beam or alone or gpu
# Each file runs in one process, and the longest files start first: see tests/conftest.py.
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder
# The same Hypothesis examples in each run; run pytest by hand to search for new ones.
check fast test coverage: export HYPOTHESIS_PROFILE := ci
# Compiled modules are kept even where the environment says not to write them: compiling
# TensorFlow again takes each process ten seconds.
export PYTHONDONTWRITEBYTECODE :=

help:  ## List the commands.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo:  ## Run everything on this machine, from photographs to a report, in minutes.
	@if $(MAKE) --question $(VENV)/.installed 2>/dev/null; \
	  then echo "Reused: $(VENV), the environment"; else $(MAKE) --no-print-directory $(VENV)/.installed; fi
	@$(BIN)/laser-jnd demo

light:  ## Install only what predicting with an exported model needs, into .venv-light.
	@$(PYTHON) -m venv .venv-light
	@.venv-light/bin/pip install --quiet --disable-pip-version-check -r requirements-predict.lock
	@.venv-light/bin/pip install --quiet --disable-pip-version-check --no-deps .
	@echo "Installed .venv-light/bin/laser-jnd"

check: $(VENV)/.installed-dev  ## Run what each commit must pass: format, lint, types, fast tests.
	@$(MAKE) --no-print-directory --jobs 2 lint fast

fast: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest --quiet $(PARALLEL) -m "not ($(SLOW))"

test: $(VENV)/.installed-dev lint  ## Run every check and every test that this machine can run.
	@$(BIN)/python -m pytest $(PARALLEL) -m "not alone"
	@$(BIN)/python -m pytest -m alone tests/cluster

test-cluster: $(VENV)/.installed-dev  ## Train across two hosts and cut one off; needs root.
	@$(BIN)/python tests/two_hosts/scenarios.py $(ARGS)

coverage: $(VENV)/.installed-dev  ## Run the tests and print branch coverage per package.
	@$(BIN)/python -m pytest --quiet $(PARALLEL) -m "not alone" --cov --cov-report=
	@$(BIN)/python tests/coverage_by_package.py

docs: $(VENV)/.installed-dev  ## Build the documentation in site/; fail on a broken link.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Built site/index.html"

docs-assets: $(VENV)/.installed-dev  ## Update the dataset cards and the picture of the demo's report; needs Chromium.
	@$(BIN)/python docs/generate.py cards
	@$(BIN)/laser-jnd demo
	@$(BIN)/python docs/generate.py report runs/demo/run

notebook: $(VENV)/.installed-dev  ## Run the tutorial notebook in a temporary directory.
	@$(BIN)/python -m pytest --quiet tests/test_end_to_end.py

lint: $(VENV)/.installed-dev  ## Check format, lint and types.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright

format: $(VENV)/.installed-dev  ## Format the code and sort its imports.
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

lock: $(VENV)/.installed-dev  ## Resolve the pinned packages again, for every supported Python.
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras --upgrade \
	  --no-header --no-emit-index-url --no-emit-find-links --no-annotate -q pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --universal --python-version 3.11 --group predict --constraint requirements.lock \
	  --no-header --no-emit-index-url --no-emit-find-links --no-annotate -q -o requirements-predict.lock

wheel: $(VENV)/.installed-dev  ## Build the wheel under dist/.
	$(BIN)/python -m build --wheel

clean:  ## Remove the environment and built files; keep runs/.
	rm -rf $(VENV) build dist site *.egg-info

$(VENV)/bin/uv: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, but {sys.executable} is {v[0]}.{v[1]}. Name another one: make PYTHON=python3.12 ...")'
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock uv
	@touch $@

$(VENV)/.installed: $(VENV)/bin/uv pyproject.toml
	@echo "Installing the pinned packages into $(VENV) (once)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Adding the test tools to $(VENV)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable '.[dev]'
	@touch $@
