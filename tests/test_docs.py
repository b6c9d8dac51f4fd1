"""The pages in docs say what the result files say, their code runs, and what they name is there."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

import structlat as sl
import structlat.estimators

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
    pages = [ROOT / f"docs/{name}.md" for name in ("performance", "solvers", "structures", "estimators")]
    for page in [*pages, *ROOT.glob("docs/results/*.md"), ROOT / "examples/README.md"]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_code_of_the_estimators_runs(capsys):
    text = (ROOT / "docs/estimators.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"torch": torch, "sl": sl}
    exec(block, names)
    assert names["encoder"].weight.grad is not None
    assert names["decoder"].weight.grad is not None
    assert "tensor(" in capsys.readouterr().out
    for name in sl.estimators.ESTIMATORS:
        assert f"`{name}`" in text, name


def test_every_space_has_an_entry_and_a_picture():
    text = (ROOT / "docs/structures.md").read_text()
    for name in sl.structures.__all__:
        if name in ("DynamicProgram", "Or", "Pair", "Xor", "AtMostOne"):
            continue
        assert f"`{name}(" in text, name
        assert name == "Permutation" or f"\n## {name}\n" in text, name
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        assert f"images/structures/{snake}.png" in text
