# make demo: install what the examples need and run the quickstart.  make test: lint, types, tests.
# make bench: every benchmark, unattended, about half an hour on two cores; results go to docs/results, pictures to docs/images.
# Everything lives in .venv; a second run installs nothing unless setup.cfg or constraints.txt changed.
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet -c constraints.txt

BENCHMARKS = structures spaces growth solvers topk threads simplex peers

.PHONY: demo test lint bench clean

demo: .venv/installed-examples
	.venv/bin/python examples/quickstart.py

test: .venv/installed-test lint
	.venv/bin/python -m pytest -n auto

lint: .venv/installed-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/installed-bench
	set -e; for name in $(BENCHMARKS); do .venv/bin/python benchmarks/$$name.py; done
	.venv/bin/python benchmarks/report.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed-%: setup.cfg setup.py pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[$*]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
