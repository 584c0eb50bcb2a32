# The commands of this repository. `make run` and `make test` need Python >= 3.11 and nothing else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The lock names every package, so pip resolves nothing. Python compiles each module when it first
# imports it: without the compiled files, which some environments forbid, every start of dibs takes
# two and a half times as long, and the tests start it a thousand times.
unexport PYTHONDONTWRITEBYTECODE
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-compile
# Most tests wait for a process or a clock, so several files run at a time, in collection order.
SEVERAL := -n 4 --dist loadfile --no-loadscope-reorder
# Flags for the service, as in: make run ARGS="--port 9000"
ARGS   ?=

# The tests that a change breaks most often: the contract on the fake store, the calls, the texts.
QUICK  := tests/promises tests/http/test_calls.py tests/http/test_bad_input.py \
          tests/http/test_problems.py tests/client/test_shape.py tests/client/test_identity.py \
          tests/docs/test_protocol.py tests/proofs/test_guarantees.py tests/harness/test_house.py

.DEFAULT_GOAL := help
.PHONY: help run test quick check prove mutants abuse clean audit sbom soak bench bench-plain test-claude

help:                    ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

run: $(VENV)/.run        ## serve on http://127.0.0.1:8080 with a private store in .dibs/
	@exec $(BIN)/dibs serve --data-dir .dibs $(ARGS)

test: $(VENV)/.dev       ## a test of each promise; check adds the longer proofs, and more cases of some tests
	$(BIN)/pytest $(SEVERAL) --short $(ARGS)

quick: $(VENV)/.dev      ## style, types and the tests that a change breaks most often, in a minute
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/pytest $(SEVERAL) $(QUICK) -k "not valkey" $(ARGS)

check: $(VENV)/.dev      ## everything that a change must pass: style, types, imports, all tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest $(SEVERAL) --durations=20 $(ARGS)

prove: $(VENV)/.dev      ## try to break the contract for ten minutes, or ARGS="--minutes 60"
	$(BIN)/python -m tests.proofs.prove $(ARGS)

# Pinned: on an older Node, npm silently installs an older CLI if no version is given. To test
# another version: make test-claude CLAUDE_VERSION=2.1.400
CLAUDE_VERSION := 2.1.332
CLAUDE := $(abspath $(VENV))/claude/node_modules/.bin/claude

test-claude: $(VENV)/.dev  ## the real Claude Code against a scripted model; needs npm
	npm install --silent --no-save --prefix $(VENV)/claude @anthropic-ai/claude-code@$(CLAUDE_VERSION)
	@echo "Claude Code: $$($(CLAUDE) --version), required: $(CLAUDE_VERSION)"
	DIBS_CLAUDE=$(CLAUDE) $(BIN)/pytest tests/claude $(ARGS)

mutants: $(VENV)/.dev    ## insert known bugs, and show which test detects each
	$(BIN)/python -m tests.proofs.mutants $(ARGS)

abuse: $(VENV)/.dev      ## strangers attack a service for 20 seconds in each way, and a team must notice nothing
	DIBS_ABUSE_SECONDS=20 $(BIN)/pytest tests/abuse -o timeout=400 $(ARGS)

clean:                   ## remove the files that make created
	rm -rf $(VENV) build dist

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("dibs needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) --require-hashes -r requirements.txt
	$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) --require-hashes -r requirements-dev.txt
	$(PIP) --no-build-isolation -e .
	@touch $@ $(VENV)/.run

sbom: $(VENV)/bin/python    ## write the service's list of packages to build/sbom.json
	mkdir -p build
	$(BIN)/python docs/ops/sbom.py > build/sbom.json

audit:                   ## check the packages for known vulnerabilities (needs the network)
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install -q --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --strict --require-hashes --disable-pip -r requirements.txt

# To set duration and rate: make soak ARGS="--seconds 60 --rate 300"
soak: $(VENV)/.dev       ## load with restarts: nothing is lost, nothing grows (30 minutes)
	$(BIN)/python -m bench.soak $(ARGS)

bench: $(VENV)/.dev      ## compare with etcd, a plain service and the framework; ARGS=--quick for a short run
	$(BIN)/python -m bench $(ARGS)

bench-plain:             ## install the packages of the comparison's plain service, separately from ours
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install -q --disable-pip-version-check fastapi "uvicorn[standard]" redis hiredis
