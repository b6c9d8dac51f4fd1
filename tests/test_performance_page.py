"""docs/performance.md says what the result files say."""

import importlib.util
import re
from pathlib import Path

import pytest

import structlat as sl

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
    for name in ("performance", "solvers", "structures"):
        links = re.findall(r"\]\(([^)#]+)\)", (ROOT / f"docs/{name}.md").read_text())
        assert links
        for link in links:
            assert (ROOT / "docs" / link).exists(), link


def test_every_space_has_an_entry_and_a_picture():
    text = (ROOT / "docs/structures.md").read_text()
    for name in sl.structures.__all__:
        if name in ("DynamicProgram", "Or", "Pair", "Xor", "AtMostOne"):
            continue
        assert f"`{name}(" in text, name
        assert name == "Permutation" or f"\n## {name}\n" in text, name
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        assert f"images/structures/{snake}.png" in text
