# Everything a person does with this tree, one line each: `make help`.
#
# Needs git, make, curl and Python 3.11 or later with its venv module; to compile, a C compiler and Python's headers, too.
# Nothing is installed outside .venv, and no virtual environment has to be active. The run-time packages are installed for
# `make demo`, the packages for tests only when a target needs them; both again when setup.cfg changes.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV

PYTHON ?= $(or $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done),python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet
ARGS ?=
SECONDS ?= 600

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pico needs Python 3.11 or later; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv

.venv/.installed: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) -e .
	@touch $@

.venv/.installed-dev: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) -e '.[test,dev,docs]'
	@touch .venv/.installed $@

.PHONY: install install-dev
install: .venv/.installed ## the programs, into .venv
install-dev: .venv/.installed-dev ## what the tests need, too

# What a wheel brings, in a tree of its own with everything around it: tests and benchmarks run there as they do here.
COMPILED := build/compiled
$(COMPILED)/.built: setup.py setup.cfg pyproject.toml $(shell find pico -name '*.py') | $(BIN)/python
	rm -rf $(COMPILED) build/lib* build/bdist*
	mkdir -p $(COMPILED)
	$(BIN)/python -m pip --disable-pip-version-check --no-input wheel --quiet --no-deps --wheel-dir $(COMPILED) .
	cp -R pico $(COMPILED)/
	$(BIN)/python -m zipfile -e $(COMPILED)/*.whl $(COMPILED)
	@touch $@

.PHONY: compiled
compiled: install $(COMPILED)/.built ## the hot path compiled, in build/compiled; without Python's headers plain Python
	@cp -R bench deploy docs spec tests Makefile *.md *.cfg *.toml *.ini setup.py LICENSE .coveragerc $(COMPILED)/

.PHONY: demo
demo: install ## three nodes, an agent and a sample service; ARGS=--once exits when its requests are answered
	@$(BIN)/pico demo $(ARGS)

# What starts no programs, or none whose time matters, runs in two processes (`tests/conftest.py` says what beside what);
# real processes under load do not.
PARALLEL := -n 2 --dist loadgroup
PROCESSES := tests/system tests/docs

# The suites stand in one recipe: in order also under `make -j`, and the test runner has the last word.
.PHONY: test
test: install-dev ## every suite that CI runs
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@$(MAKE) --no-print-directory test-compiled
	$(BIN)/python -m pytest $(PARALLEL) $(addprefix --ignore=,$(PROCESSES))
	$(BIN)/python -m pytest $(PROCESSES)

# Everything of which the parts can be real: compiled code takes no stand-ins.
.PHONY: test-compiled
test-compiled: COMPILED_PYTEST = PYTHONPATH=$(CURDIR)/$(COMPILED) $(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider
test-compiled: install-dev compiled ## what the compiled hot path must pass, too
	cd $(COMPILED) && $(COMPILED_PYTEST) $(PARALLEL) tests/test_compiled.py \
		$(addprefix tests/,protocol property transport actors agent node)
	cd $(COMPILED) && $(COMPILED_PYTEST) $(addprefix tests/system/test_, \
		base_protocol.py cluster.py curl.py killed.py large.py tls.py tokens.py)

.PHONY: lint types layers mirror property soak simulate bars mutation mutmut system screenshots docs bench cluster-bench rollout format status-bench
lint: install-dev ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: install-dev ## let ruff fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: install-dev ## mypy, strict
	$(BIN)/mypy

layers: install-dev ## imports go downward only
	$(BIN)/lint-imports

mirror: install-dev ## each module of the protocol floor covered by its own tests
	$(BIN)/python -m tests.mirror $(ARGS)

property: install-dev ## the property tests, deep
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest --timeout=3600 tests/property $(ARGS)

system: install-dev ## real processes and ports only; with PICO_SYSTEM_LONG=1 what takes half a minute, too
	$(BIN)/python -m pytest tests/system $(ARGS)

screenshots: install-dev ## the pictures in docs/images, from a real cluster on a terminal and in a browser
	PICO_SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/system/test_page.py tests/system/test_watch.py -k "pictures or in_place" $(ARGS)

soak: simulate ## node and agents under trouble for SECONDS=600, after as long in virtual time
	$(BIN)/python -m tests.soak --seconds $(SECONDS) $(ARGS)

simulate: install-dev ## clusters under trouble in virtual time for SECONDS=600
	$(BIN)/python -m tests.simulation --seconds $(SECONDS) $(ARGS)

bars: install-dev ## the figures of the cluster in virtual time; hours with the largest
	$(BIN)/python -m tests.simulation.bars $(ARGS)

mutation: install-dev ## faults seeded in the protocol floor by hand, each to be found
	$(BIN)/python -m tests.mutation $(ARGS)

mutmut: install-dev ## mutmut on the protocol floor; what survives is listed
	$(BIN)/mutmut run $(ARGS)
	$(BIN)/mutmut results

docs: install-dev ## the documentation as a site, build/docs/index.html; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -n -q -c docs -d build/doctrees . build/docs

rollout: install-dev ## restarts, kills and a new node behind HAProxy and nginx, under load; ARGS="restart --rounds=1"
	@$(BIN)/python -m bench.rollout $(ARGS)

cluster-bench: install ## a cluster of real processes: how fast it heals; ARGS=--quick for a short run
	@$(BIN)/python -m bench.cluster $(ARGS)

status-bench: install ## what looking at a node costs its requests; ARGS="--endpoints=1000 --rounds=1" for a short run
	@$(BIN)/python -m bench.status $(ARGS)

bench: compiled ## requests a second, latency and CPU for each request
	@PYTHONPATH=$(CURDIR)/$(COMPILED) $(BIN)/pico bench $(ARGS)

.PHONY: reference
reference: install ## what the documentation takes from the code: settings, JSON Schemas, usage texts, failures, pictures
	@$(BIN)/python -m pico.cli.schema docs
	@$(BIN)/python -m docs.generate

.PHONY: clean
clean: ## all that was made here, .venv too
	rm -rf .venv build dist mutants .tox .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis htmlcov
	rm -rf .coverage .coverage.* *.egg-info
	find pico tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
