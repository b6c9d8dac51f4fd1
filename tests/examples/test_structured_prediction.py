import importlib
import json
import statistics
from importlib.metadata import version

import pytest
import torch

from tests.examples.scripts import interrupt, run, start

PNG = b"\x89PNG"
LOSSES = ["independent", "perceptron", "hinge", "crf", "sparsemap", "perturbed"]
SHORT = ("--epochs", 1, "--rows", 64)


@pytest.fixture(scope="module")
def output(out):
    """What the script prints; ``out`` is full afterwards."""
    return run("structured_prediction.py", *SHORT, "--seeds", 2, "--out", out)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("structured_prediction") / "made" / "by the script"


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("structured_prediction")


def results(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("output")
def test_writes_the_picture_and_the_results_and_nothing_else(out):
    assert sorted(path.name for path in out.iterdir()) == ["results.jsonl", "structured_prediction.png"]
    assert (out / "structured_prediction.png").read_bytes().startswith(PNG)
    lines = results(out)
    assert [line["loss"] for line in lines] == LOSSES
    for line in lines:
        assert line["seeds"] == [0, 1]
        assert line["position_accuracy"] == statistics.mean(line["position_accuracies"]) > 0.1
        assert line["position_accuracy_deviation"] == statistics.stdev(line["position_accuracies"])
        assert line["row_accuracy"] == statistics.mean(line["row_accuracies"]) < line["position_accuracy"]
        assert len(line["seconds"]) == 2
        assert line["settings"]["rows"] == 64
        assert line["versions"]["torch"] == version("torch")
        assert "structured_prediction.py --epochs 1" in line["command"]


def test_shows_progress_and_a_table_that_explains_itself(out, output):
    for name in LOSSES:
        assert f"{name}, seed 1" in output
    assert "loss=" in output
    table = output[output.index("loss  ") :]
    for line in results(out):
        shown = f"{100 * line['position_accuracy']:.1f} ± {100 * line['position_accuracy_deviation']:.1f}"
        assert any(x.startswith(line["loss"]) and shown in x for x in table.splitlines())
    for column in ("labels right:", "whole rows right:", "seconds:"):
        assert f"\n{column}" in table


@pytest.mark.usefixtures("output")
def test_the_same_seed_gives_the_same_numbers_whatever_else_is_trained(out, tmp_path):
    run("structured_prediction.py", *SHORT, "--seeds", 1, "--losses", "perturbed", "crf", "--out", tmp_path)
    first = {line["loss"]: line for line in results(out)}
    again = results(tmp_path)
    assert [line["loss"] for line in again] == ["perturbed", "crf"]
    for line in again:
        for numbers in ("position_accuracies", "row_accuracies"):
            assert line[numbers] == first[line["loss"]][numbers][:1]
        assert line["position_accuracy_deviation"] is None


def test_neighbours_help(tmp_path):
    options = ("--epochs", 12, "--rows", 300, "--seeds", 1, "--losses", "independent", "hinge", "crf", "sparsemap")
    run("structured_prediction.py", *options, "--out", tmp_path)
    alone, *together = results(tmp_path)
    assert alone["position_accuracy"] > 0.5
    for line in together:
        assert line["position_accuracy"] > alone["position_accuracy"] + 0.05
        assert line["row_accuracy"] > alone["row_accuracy"] + 0.05


def test_the_law_of_the_rows(script):
    """Labels by the grammar, images that show them, and none of them in both halves."""
    settings = script.Settings(losses=(), seeds=1, rows=400, noise=0.0, epochs=1, learning_rate=0.1, out=None)
    follows = script.grammar()
    assert torch.equal((follows > 0).sum(1), torch.full((10,), 3))
    torch.testing.assert_close(follows.sum(1), torch.ones(10))
    digits = script.load_digits()
    label = {tuple(image): int(digit) for image, digit in zip(digits.data / 16, digits.target, strict=True)}
    seen = []
    for rows in script.load_rows(settings, seed=0):
        assert (follows[rows.z[:, :-1], rows.z[:, 1:]] > 0).all()
        counts = torch.zeros(10, 10).index_put_((rows.z[:, :-1], rows.z[:, 1:]), torch.ones(()), accumulate=True)
        assert (counts / counts.sum(1, keepdim=True) - follows).abs().max() < 0.15
        images = [tuple(image.tolist()) for image in rows.x.flatten(0, 1)]
        assert [label[image] for image in images] == rows.z.flatten().tolist()
        seen.append(set(images))
    assert not seen[0] & seen[1]
    noisy = script.load_rows(settings._replace(noise=0.6), seed=0)[0]
    assert float((noisy.x - script.load_rows(settings, seed=0)[0].x).std()) == pytest.approx(0.6, rel=0.01)


def test_help_explains_every_option():
    output = run("structured_prediction.py", "--help")
    for option in ("losses", "seeds", "rows", "noise", "epochs", "learning_rate", "out"):
        line = next(x for x in output.splitlines() if x.strip().startswith(f"--{option} "))
        rest = output[output.index(line) :].split("--", 2)[1]
        assert "default" in rest, rest


def test_control_c_ends_it_with_the_runs_that_had_ended(tmp_path):
    options = ("--rows", 32, "--epochs", 1000, "--seeds", 1, "--losses", "independent", "sparsemap", "--out", tmp_path)
    process = start("structured_prediction.py", *options)
    output = interrupt(process, "sparsemap, seed 0")
    assert "Stopped by Ctrl-C." in output
    assert [line["loss"] for line in results(tmp_path)] == ["independent"]
    assert (tmp_path / "structured_prediction.png").read_bytes().startswith(PNG)
