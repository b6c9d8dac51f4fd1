# make demo: install what the examples need and run the quickstart.  make test: lint, types, tests.
# Everything lives in .venv; a second run installs nothing unless setup.cfg or constraints.txt changed.
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet -c constraints.txt

.PHONY: demo test lint clean

demo: .venv/installed-examples
	.venv/bin/python examples/quickstart.py

test: .venv/installed-test lint
	.venv/bin/python -m pytest -n auto

lint: .venv/installed-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed-%: setup.cfg setup.py pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[$*]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
