# `make help` lists the targets. Everything sets itself up in .venv from the lock.
.DEFAULT_GOAL := help
SHELL := bash -o pipefail
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.from-lock
SERVING := .venv-serving
SERVING_READY := $(SERVING)/.from-lock
# Which Python model servers get: a version or a path. uv looks for it here, else it brings one.
SERVING_PYTHON ?= >=3.11,<3.13
# Of KServe in the labs: standard or knative.
MODE ?= standard
# KServe's release in the labs; the newest where none is named.
KSERVE ?=
LAB = $(BIN)/python -m lab --mode $(MODE) $(if $(KSERVE),--kserve $(KSERVE))
PYTEST = $(BIN)/python -m pytest --dist worksteal $(addprefix --ignore tests/,registry cluster node attacks)
# Every worker and every server in a test would compile all of its modules anew.
unexport PYTHONDONTWRITEBYTECODE
# Of all that make dist builds: a commit is the same files on every machine.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1)
DIST ?= dist
# uv is quicker than pip by ten times. Bytecode counts: without it model servers start in 5 s, not 2.
INSTALL = $(BIN)/uv pip install --require-hashes --compile-bytecode
WITHOUT_NAMES = 2>&1 | awk '!/^ [+] / { print; fflush() }'

.PHONY: help demo serve setup serving test unit processes check lab node-lab image bench sizes walks attack failures soak stubs check-stubs dist lock format

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) $(SERVING_READY) ## Deploy a model on this machine, ask it, and see how a broken one fails
	@$(BIN)/python -m demo

serve: $(READY) $(SERVING_READY) ## A server on this machine until Ctrl-C, and what to call it with
	@$(BIN)/python -m demo serve

setup: $(READY) ## Make .venv from the lock

$(READY): requirements-dev.lock
	@echo "setting up $(VENV) from $<"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=...")'
	@$(PYTHON) -m venv --clear $(VENV)
	@sed -n '/^uv==/,/[^\]$$/p' $< > $(VENV)/uv.txt
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement $(VENV)/uv.txt
	@$(INSTALL) --python $(BIN)/python --requirement $< $(WITHOUT_NAMES)
	@touch $@

serving: $(SERVING_READY) ## Make .venv-serving, which model servers run in, from its lock

$(SERVING_READY): requirements-serving.lock | $(READY)
	@echo "setting up $(SERVING) from $<"
	@$(BIN)/uv python find --quiet '$(SERVING_PYTHON)' >/dev/null 2>&1 || \
	  { echo "MLServer needs Python 3.11 or 3.12 and none is here: trying to bring one"; \
	    $(BIN)/uv python install --no-bin 3.12 2>/dev/null; } || \
	  { echo "that failed: install one, then make serving SERVING_PYTHON=its path"; exit 1; }
	@$(BIN)/uv venv --quiet --no-project --clear --python '$(SERVING_PYTHON)' $(SERVING)
	@$(INSTALL) --python $(SERVING)/bin/python --requirement $< $(WITHOUT_NAMES)
	@touch $@

test: unit processes ## Run every test that this machine can, and say what was left out
	$(BIN)/python -m pytest tests/registry -n 3 --dist loadfile
	$(BIN)/python -m pytest tests/attacks
	@# One lab a core: with three on two cores the labs' own programs wait for one another.
	$(BIN)/python -m pytest tests/cluster tests/node -n 2

# Half of the time its tests wait: three workers a core, where there are two.
unit: $(READY) ## The tests that need neither Go, nor a cluster, nor processes beside them
	$(PYTEST) -n 6 -m 'not processes and not soak'

processes: $(READY) ## The tests of the server, PostgreSQL and model servers as processes
	$(PYTEST) -n 4 -m 'processes and not soak'

check: $(READY) ## Lint, types, layers, protos and stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=client $(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	.ci/breaking
	$(BIN)/python proto/generate.py --check

lab: $(READY) ## A KServe control plane with a simulated node on this machine, until Ctrl-C; MODE=knative, KSERVE=0.15
	@$(LAB)

node-lab: $(READY) ## The same with a real node, on which models serve (Linux, root); MODE=knative, KSERVE=0.15
	@$(LAB) --node real

image: ## The server's container image, TARGET=cli modelctl's: IMAGE=name:tag; PUSH=1 pushes it, BASE= is another Python
	@BASE='$(BASE)' PUSH='$(PUSH)' TARGET='$(TARGET)' .ci/image '$(IMAGE)'

failures: $(READY) ## How rollouts fail on a real node, and how soon it is reported: 12 minutes; MODE=knative
	$(BIN)/python -m tests.node$(if $(filter knative,$(MODE)),.knative).failures

bench: $(READY) ## Measure the server beside what it stands on, and print ratios; BENCH=streams is a part
	$(BIN)/python -m tests.benchmarks $(BENCH)

sizes: $(READY) ## How large files, functions and folders are: FOLDER= is another than server/
	@$(BIN)/python -m tests.measures.sizes $(FOLDER)

walks: $(READY) ## How many calls a Deploy, a pod event and a Get take; SEQUENCE=1 prints their files in order
	@$(BIN)/python -m tests.measures.walks $(if $(SEQUENCE),--sequence)

attack: $(READY) ## A caller's worst, and what becomes of the others: 6 minutes, an hour by make soak
	$(BIN)/python -m tests.attacks
	$(BIN)/python -m tests.attacks.beside

soak: $(READY) ## The long runs: 200 kills around a Deploy, 10,000 watches, ten times the random examples, and others
	$(BIN)/python -m pytest -m 'soak or hypothesis' --hypothesis-profile=soak

stubs: $(READY) ## Generate generated/ from the protos
	$(BIN)/python proto/generate.py

check-stubs: $(READY) ## Compare generated/ with the protos
	$(BIN)/python proto/generate.py --check

dist: $(READY) ## Wheels and source distributions of the stubs and the client, in dist/
	@rm -f '$(DIST)'/modelservice_*
	@for package in generated client; do \
	  SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(BIN)/uv build --quiet --require-hashes \
	    --build-constraints requirements-build.lock --no-create-gitignore --out-dir '$(DIST)' $$package || exit; done
	@ls '$(DIST)'/modelservice_*

lock: $(READY) dist ## Resolve the dependencies anew
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --universal \
	  --python-version 3.11 --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --universal \
	  --python-version 3.11 --custom-compile-command "make lock" --extra dev \
	  -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --universal \
	  --python-version 3.11 --custom-compile-command "make lock" \
	  requirements-serving.in -o requirements-serving.lock
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --universal \
	  --python-version 3.11 --custom-compile-command "make lock" --extra cli \
	  --find-links '$(DIST)' --no-emit-find-links --no-emit-package modelservice-stubs \
	  -c requirements-dev.lock client/pyproject.toml -o requirements-cli.lock
	sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' client/pyproject.toml | \
	  $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --universal \
	  --python-version 3.11 --custom-compile-command "make lock" - -o requirements-build.lock

format: $(READY) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write
