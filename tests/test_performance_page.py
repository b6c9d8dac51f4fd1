"""docs/performance.md says what the result files say."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/performance.md").read_text()


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("report", ROOT / "benchmarks/report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_is_that_of_its_file(report):
    assert report.written(PAGE) == PAGE


def test_links_lead_somewhere():
    for name in ("performance", "solvers"):
        links = re.findall(r"\]\(([^)#]+)\)", (ROOT / f"docs/{name}.md").read_text())
        assert links
        for link in links:
            assert (ROOT / "docs" / link).exists(), link
