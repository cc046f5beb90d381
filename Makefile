# Each target works on a bare machine with Python 3.11: it makes .venv first if it is not there.
PYTHON ?= python3.11
BIN := .venv/bin
OUT ?= out
LOCK := requirements.lock

.PHONY: setup demo test check update try-lowest try-newest clean

# Everything, down to the build tools and pip itself, at the exact versions of the lock.
setup: .venv/.installed

.venv/.installed: pyproject.toml $(LOCK)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^pip==' $(LOCK))"
	$(BIN)/python -m pip install --quiet -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
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
	$(BIN)/python -m pytest -q -p no:cacheprovider --doctest-glob='*.md' docs README.md CONTRIBUTING.md
	$(BIN)/mkdocs build --strict --quiet

# Renew the lock from the bounds in pyproject.toml (held.txt says what is held back, and why), and
# run everything on it. The old lock and .venv stay until the new versions are known.
update:
	rm -rf .venv-update && $(PYTHON) -m venv .venv-update
	.venv-update/bin/python -m pip install --quiet --upgrade pip
	.venv-update/bin/python -m pip install --quiet -c held.txt -e '.[judge]' --group dev
	.venv-update/bin/python -m pip freeze --all --exclude-editable > .venv-update/freeze.txt
	sed 's/+cpu$$//' .venv-update/freeze.txt > $(LOCK)
	rm -rf .venv-update .venv
	$(MAKE) test check

# The suite on the lowest versions that pyproject.toml allows, and on the newest of the day.
try-lowest:
	rm -rf .venv-lowest && $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(PYTHON) tools/lower_bounds.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet -c .venv-lowest/lowest.txt -e '.[judge]' --group dev
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n auto

try-newest:
	rm -rf .venv-newest && $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade pip
	.venv-newest/bin/python -m pip install --quiet -c held.txt -e '.[judge]' --group dev
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n auto

clean:
	rm -rf .venv .venv-* site dist
