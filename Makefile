# `make loop PROMPT="…"` and `make test` are all that a newcomer needs. Both set up what they need: minutes the first
# time, because llama.cpp is compiled; next to nothing after that, until a lock file changes.

# Any Python from 3.11 on; only the set-up uses it, everything else runs in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
# More arguments for the command behind a target: make test ARGS="-k health -x"
ARGS ?=
# What `make bench` does: run, kernels, memory, masks, overhead, table or publish.
COMMAND ?= run

BIN := .venv/bin

# A prompt may hold $, quotes and anything else: it goes through the environment, unexpanded, never through a shell's
# or make's eyes.
unexport PROMPT
export LOOP_PROMPT := $(value PROMPT)

.DEFAULT_GOAL := help
.PHONY: help setup loop serve test test-unit chaos soak bench lint format types stubs stubs-check proto-lint proto-breaking proto-release docs docs-check \
	kernels image image-scaler base-image context context-check lock lock-check check hooks clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

setup: ## Makes .venv: what the lock files say, and llama.cpp compiled for this machine
	@exec $(PYTHON) -m tools.setup_venv

loop: setup ## Drafts, reflects and corrects: make loop PROMPT="Explain how a rainbow forms"
	@[ -n "$$LOOP_PROMPT" ] || { echo 'usage: make loop PROMPT="Explain how a rainbow forms"' >&2; exit 2; }
	@exec $(BIN)/sarai loop $(ARGS) -- "$$LOOP_PROMPT"

serve: setup ## Serves the draft skill on 127.0.0.1:50051: make serve [ARGS="--threads 2"]
	@exec $(BIN)/python -m skills.skill_draft.server $(ARGS)

test: ## All tests; those with containers where there is an engine
	@exec $(PYTHON) -m tools.test_set_up $(if $(strip $(ARGS)),--selected)
	@exec $(BIN)/python -m pytest $(ARGS)

test-unit: setup ## Only the tests of single units, some seconds
	@exec $(BIN)/python -m pytest tests/unit $(ARGS)

# SARAI_CHAOS_SEED repeats a run, SARAI_CHAOS_MODEL=135m takes the embedded model, SARAI_CHAOS_FAULTS sets how many,
# SARAI_CHAOS_HEDGE_S=0.3 has the pool hedge too.
chaos: setup ## Breaks one replica of three 100 times, processes and containers, under load: make chaos [ARGS="-k processes"]
	@SARAI_CHAOS_FAULTS=$${SARAI_CHAOS_FAULTS:-100} exec $(BIN)/python -m pytest -s tests/chaos $(ARGS)

soak: setup ## 10,000 short requests with cancellations: nothing leaks, nothing gets mixed up
	@SARAI_SOAK_REQUESTS=10000 exec $(BIN)/python -m pytest -s tests/system/test_soak.py $(ARGS)

bench: setup ## Measures against llama.cpp's own server, on a quiet machine: make bench [ARGS="--quick --model 135m"]
	@$(PYTHON) -m bench.set_up
	@exec bench/.venv/bin/python -m bench $(COMMAND) $(ARGS)

kernels: setup ## Compiles only our kernels and puts them into .venv: seconds instead of minutes, for who works on them
	@exec $(PYTHON) -m tools.kernels $(ARGS)

# llama.cpp is compiled on this machine where that gives what the image's builder would compile, so that it is kept.
image: ## Builds the draft skill's image, sarai-skill-draft:v2.16
	@$(PYTHON) -m tools.skill_image --folder skills/skill_draft --tag sarai-skill-draft:v2.16

image-scaler: ## Builds the image of the scaler, for clusters: sarai-scaler:v2.16
	@docker build --tag sarai-scaler:v2.16 --file deploy/scaler/Dockerfile .

base-image: ## Makes debian:bookworm-slim from Debian's packages where it cannot be pulled
	@$(PYTHON) -m tools.base_image

context: ## Writes what a build from skills/skill_draft alone takes from the rest of the tree
	@$(PYTHON) -m tools.image_context

context-check: ## Is that current?
	@$(PYTHON) -m tools.image_context --check

check: lint proto-breaking types stubs-check docs-check lock-check context-check ## Everything that CI checks beside the tests

lint: setup proto-lint ## Linters of Python, the contract, shell scripts and Dockerfiles
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/shellcheck .ci/run tools/*.sh
	@$(BIN)/hadolint skills/*/Dockerfile deploy/*/Dockerfile

format: setup ## Formats, and repairs what can be repaired
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup ## mypy, strict
	@$(BIN)/mypy

proto-lint: setup ## The contract's style; exceptions in buf.yaml
	@$(BIN)/buf lint

# AGAINST is anything that buf takes as an input: AGAINST='.git#branch=main' asks for less than what was released.
AGAINST ?= .ci/contract.binpb
proto-breaking: setup ## Would callers of the released contract still work?
	@$(BIN)/buf breaking --against '$(AGAINST)'

proto-release: setup proto-breaking ## Part of a release: from now on nothing in today's contract may break
	@$(BIN)/buf build --exclude-source-info -o .ci/contract.binpb

stubs: setup ## Writes the stubs and their types from skills/skills.proto
	@tools/gen_stubs.sh

stubs-check: setup ## Are the committed stubs those of skills/skills.proto?
	@tools/gen_stubs.sh --check

docs: setup ## Writes the command line's reference
	@$(BIN)/python -m tools.gen_cli_docs

docs-check: setup ## Is the command line's reference current?
	@$(BIN)/python -m tools.gen_cli_docs --check

lock: ## Resolves the lock files anew: make lock [ARGS=--upgrade]
	@$(PYTHON) -m tools.lock $(ARGS)

lock-check: ## Do the lock files belong to pyproject.toml? Needs no network
	@$(PYTHON) -m tools.lock --check

hooks: setup ## Runs lint, types and freshness before each commit
	@$(BIN)/pre-commit install

clean: ## Removes .venv and caches of tools; compiled wheels stay in ~/.cache/sarai
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
