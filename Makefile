# make demo    install what the demonstration needs, then run it
# make test    everything that must hold before a change is kept: lint, types, tests
# make lint    formatting, lint and types only
# make format  put the source in shape
# make docs    build the site into site/, the reference from the source included
# make figures  measure every headline figure again (five to ten minutes of a core), and write it where it is read
# make docs-check  run every block of the documentation that can run (half an hour)
#
# PYTHON=python3.12 picks another interpreter for .venv.

PYTHON ?= python3
BIN := .venv/bin
ifeq ($(OS),Windows_NT)
PYTHON = python
BIN := .venv/Scripts
endif

.PHONY: demo test lint format dev docs docs-check figures

demo:
	@$(PYTHON) scripts/bootstrap.py mol
	$(BIN)/imadarem demo

test: lint
	$(BIN)/python -m pytest

lint: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: dev
	$(BIN)/python scripts/make_docs.py

figures: dev
	OMP_NUM_THREADS=1 $(BIN)/python scripts/figures.py

docs-check: dev
	$(BIN)/python scripts/check_docs.py

dev:
	@$(PYTHON) scripts/bootstrap.py dev
