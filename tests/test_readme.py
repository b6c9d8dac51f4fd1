"""README's code runs, and what README names is there."""

import json
import re
import statistics
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


def test_numbers_of_the_experiments_are_those_of_their_lines():
    shown = {  # latent variable: its file, the lines of it, the number shown
        "a class; semi-supervised MNIST, 200 passes, one seed": (
            "semi_supervised_vae",
            {"preset": "paper"},
            "accuracy",
        ),
        "a message of 256; game of sender and receiver, five seeds": ("signal_game", {"preset": "quick"}, "success"),
        "128 bits; VAE of Fashion-MNIST, 5 passes in batches of 16, one seed": (
            "bit_vector_vae",
            {"bits": 128},
            "negative_log_likelihood",
        ),
    }
    rows = [[x.strip() for x in row.strip("|").split("|")] for row in TEXT.splitlines() if row.startswith("| a ")]
    rows += [
        [x.strip() for x in row.strip("|").split("|")] for row in TEXT.splitlines() if row.startswith("| 128 bits")
    ]
    assert {row[0] for row in rows} == set(shown)
    for latent, measure, method, result, calls in rows:
        file, wanted, metric = shown[latent]
        lines = map(json.loads, (ROOT / f"docs/results/{file}.jsonl").read_text().splitlines())
        own = [x for x in lines if x["method"] == method.strip("`") and wanted.items() <= x.items()]
        own = [x for x in own if file != "bit_vector_vae" or x["config"]["batch_size"] == 16]
        assert len(own) == (5 if "five" in latent else 1)
        value = statistics.mean(x["metrics"][metric] for x in own) * (100 if "%" in measure else 1)
        digits = len(result.partition(".")[2])
        assert f"{value:.{digits}f}" == result
        assert f"{statistics.mean(x['calls'] for x in own):.2f}" == calls
