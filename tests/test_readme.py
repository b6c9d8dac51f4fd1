"""README's code runs, and what README names is there."""

import json
import re
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_code_blocks_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    torch.manual_seed(0)
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["scores"].grad is not None
    assert torch.isfinite(names["scores"].grad).all()
    assert names["decoder"].weight.grad is not None
    printed = capsys.readouterr().out
    assert "Converged in all 64 rows" in printed
    assert 1 < float(re.search(r"tensor\(([\d.]+)\)", printed)[1]) < 64


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_commands_are_those_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for command in ("examples/quickstart.py", "ruff check .", "ruff format --check .", "mypy", "pytest -n auto"):
        assert command in makefile
        assert command in TEXT
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_numbers_are_those_of_the_result_file():
    for line in (ROOT / "docs/results/quickstart.jsonl").read_text().splitlines():
        run = json.loads(line)
        numbers = [f"{run['structures']:,}", f"{run['bits_per_pixel']:.3f}", f"{run['support']:.2f}"]
        numbers += [f"{run['decoder_calls']:.2f}", f"{run['seconds']:.1f}"]
        assert f"| {run['method']} | {' | '.join(numbers)} |" in TEXT
