# Each target works on a bare machine with Python 3.11: it makes .venv first if it is not there.
PYTHON ?= python3.11
BIN := .venv/bin
OUT ?= out

.PHONY: setup demo test check clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[judge]' --group dev
	touch $@

demo: setup
	$(BIN)/tailguard demo --out $(OUT)/demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -p no:cacheprovider --doctest-glob='*.md' docs README.md
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv site dist
