# Each target does its own set-up: a virtual environment in .venv, with the tested versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo serve test slow check bench chaos clean

LOOPS ?= 200

demo: $(READY)
	$(BIN)/lifelong demo

serve: $(READY)
	$(BIN)/lifelong demo --part serve

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/importance.py
	$(BIN)/python benchmarks/memory.py

chaos: $(READY)
	$(BIN)/python benchmarks/chaos.py --loops $(LOOPS)

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV), once: two minutes or so, most of them for torch"
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
