# Every target sets itself up: on a machine with Python 3.11+ and make, `make demo` and `make test` are all it takes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEEPSPEED_STAMP := $(VENV)/.installed-deepspeed

# One lock for CPU and CUDA: pip takes the build of torch that its index offers for this machine.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"make: expected Python 3.11 or newer, found {sys.version.split()[0]}; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.PHONY: install demo test test-app test-slow test-deepspeed test-gpu bench bench-full docs docs-serve lint clean

# Without compiled kernels; those that the tests use are compiled when they are first used, in about a minute.
$(DEEPSPEED_STAMP): $(STAMP) requirements-deepspeed.lock
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-deepspeed.lock
	@touch $@

install: $(STAMP)

demo: $(STAMP)  ## the whole recipe in small, about five minutes
	$(BIN)/llava-pl demo

test: $(STAMP)  ## the default tier, under eight minutes on two cores
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope

test-app: $(STAMP)  ## three minutes on two cores: the page in Chromium, the server, notebooks, a closed network
	$(BIN)/python -m pytest -m app --numprocesses 2 --dist loadscope

test-slow: $(STAMP)  ## half an hour on two cores: the demo over several seeds, two nodes, faults of ranks
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadscope

test-deepspeed: $(DEEPSPEED_STAMP)  ## DeepSpeed's ZeRO between two processes on the CPU; needs g++
	$(BIN)/python -m pytest -m deepspeed

test-gpu: $(DEEPSPEED_STAMP)  ## what needs a CUDA device; docs/gpu-runs.md says where it was run
	$(BIN)/python -m pytest -m gpu

# PEERS: a folder that benchmarks/make_peer_envs.py made; LLAVA: a checkout of haotian-liu/LLaVA; TOKENIZER: a folder
# with LLaMA's tokenizer.model. Each may be left out.
BENCH_PEERS = $(if $(PEERS),--peers $(PEERS)) $(if $(LLAVA),--llava_checkout $(LLAVA)) \
	$(if $(TOKENIZER),--tokenizer $(TOKENIZER))

bench: $(STAMP)  ## beside the peers at hand, in small: minutes
	$(BIN)/python benchmarks/run.py $(BENCH_PEERS)

bench-full: $(STAMP)  ## beside all peers, at the sizes of the targets: hours; writes benchmarks/README.md
	$(BIN)/python benchmarks/run.py --full $(BENCH_PEERS) --output benchmarks/results --readme benchmarks/README.md

# A note about another generator of sites is left out of the output.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1

docs: $(STAMP)  ## the site, into site/; a link that leads nowhere is an error
	$(BIN)/mkdocs build --strict

docs-serve: $(STAMP)  ## the site at localhost:8000, made anew when a page changes
	$(BIN)/mkdocs serve

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
