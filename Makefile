# make demo: the whole story in a few minutes.   make test: what CI runs.   make lint: style and types.   make test-long: the slow tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long lint clean

demo: .venv/demo
	$(BIN)/zoo demo --overwrite

test: .venv/test
	$(BIN)/python -m pytest -m "not long"

test-long: .venv/test
	$(BIN)/python -m pytest -m long

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# one stamp an extra: installed once, and again when pyproject.toml changes
.venv/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv runs
