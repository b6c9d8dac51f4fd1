import importlib
import json
from importlib.metadata import version

import pytest
import torch

from structlat.estimators import ESTIMATORS
from tests.examples.scripts import interrupt, run, start

PNG = b"\x89PNG"
SPACES = ["one of 16", "at most 3 of 6 bits"]
BASELINE = "sum-and-sample, baseline"


@pytest.fixture(scope="module")
def output(out):
    """What the script prints; ``out`` is full afterwards."""
    return run("gradient_quality.py", "--quick", "--draws", 100, "--spaces", *SPACES, "--out", out)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("gradient_quality") / "made" / "by the script"


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("gradient_quality")


def results(folder):
    return [json.loads(line) for line in (folder / "gradient_quality.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("output")
def test_writes_the_picture_and_the_results_and_nothing_else(out):
    assert sorted(path.name for path in out.iterdir()) == [f"gradient_quality.{x}" for x in ("jsonl", "md", "png")]
    assert (out / "gradient_quality.png").read_bytes().startswith(PNG)
    lines = results(out)
    everywhere = {*ESTIMATORS, BASELINE} - {"sparsemap-budget", "gumbel", "st-gumbel", "disarm"}
    assert [line["problem"] for line in lines] == sorted((x["problem"] for x in lines), key=SPACES.index)
    for space, own in ((SPACES[0], {"gumbel", "st-gumbel"}), (SPACES[1], {"sparsemap-budget"})):
        assert {line["estimator"] for line in lines if line["problem"] == space} == everywhere | own
    for line in lines:
        assert len(line["setting"]) == len(line["calls"]) == len(line["bias"]) == len(line["deviation"]) in (1, 2)
        assert line["seed"] == 0
        assert line["settings"]["draws"] == 100
        assert line["versions"]["torch"] == version("torch")
        assert "gradient_quality.py --quick" in line["command"]


@pytest.mark.usefixtures("output")
def test_the_numbers(out):
    """What sums over a support is exact; nothing that is unbiased is seen to be biased; samples cost what they say."""
    for line in results(out):
        name = line["estimator"]
        if name in ("softmax", "sparsemax", "topk", "sparsemap", "sparsemap-budget"):
            assert line["deviation"] == [0.0] * len(line["calls"])
            assert max(line["bias"]) < 1e-6
        else:
            assert line["deviation"][1] < line["deviation"][0]
            assert line["calls"][1] > line["calls"][0] >= 1
        if name in ("sfe", "sfe+", "rloo", "nvil", "sum-and-sample", BASELINE):
            assert not any(line["biased"])
        if name in ("gumbel", "st-gumbel", "imle"):
            assert all(line["biased"])


def test_a_table_that_explains_itself(out, output):
    table = output[output.index("space  ") :]
    for line in results(out):
        shown = f"{line['calls'][0]:.2f}"
        assert any(
            x.startswith(line["problem"]) and f" {line['estimator']} " in x and shown in x for x in table.splitlines()
        )
    for text in ("loss calls:", "deviation:", "none above x:"):
        assert f"\n{text}" in table
    rows = (out / "gradient_quality.md").read_text().splitlines()
    assert len([row for row in rows if row.startswith("|")]) == 2 + len(results(out))
    assert f"| {SPACES[1]} | {BASELINE} |" in " ".join(" ".join(rows).split())


@pytest.mark.usefixtures("output")
def test_the_same_seed_gives_the_same_numbers_whatever_else_is_measured(out, tmp_path):
    options = ("--quick", "--draws", 100, "--spaces", SPACES[1], "--estimators", "imle", "rloo", "--out", tmp_path)
    run("gradient_quality.py", *options)
    first = {(line["problem"], line["estimator"]): line for line in results(out)}
    again = results(tmp_path)
    assert [line["estimator"] for line in again] == ["imle", "rloo"]
    for line in again:
        for numbers in ("calls", "deviation", "bias"):
            assert line[numbers] == first[line["problem"], line["estimator"]][numbers]


def test_two_ways_to_the_exact_gradient_agree(script):
    """Enumeration with autograd, and differences of an estimator that sums over everything."""
    for space in script.SPACES:
        problem = script.Problem(space, seed=3)
        by_differences = problem.differences(script.ready(problem, "softmax", {}, seed=0))
        torch.testing.assert_close(by_differences, problem.exact(), atol=1e-8, rtol=1e-6)
        assert float(problem.exact().norm()) > 0.1


def test_every_estimator_has_a_look_and_a_number_of_samples(script):
    assert set(script.LOOKS) == set(script.NAMES)
    assert len(set(script.LOOKS.values())) == len(script.LOOKS)
    assert set(script.NAMES) - set(script.MORE) == {"softmax", "sparsemax", "sparsemap", "sparsemap-budget"}


def test_help_explains_every_option():
    output = run("gradient_quality.py", "--help")
    for option in ("spaces", "estimators", "draws", "seed", "quick", "out"):
        line = next(x for x in output.splitlines() if x.strip().startswith(f"--{option}"))
        rest = output[output.index(line) :].split("--", 2)[1]
        assert "default" in rest, rest


def test_control_c_ends_it_with_what_had_been_measured(tmp_path):
    options = ("--draws", 10**7, "--spaces", SPACES[1], "--estimators", "topk", "sfe", "--out", tmp_path)
    process = start("gradient_quality.py", *options)
    output = interrupt(process, "bits: sfe")
    assert "Stopped by Ctrl-C." in output
    assert [line["estimator"] for line in results(tmp_path)] == ["topk"]
    assert (tmp_path / "gradient_quality.png").read_bytes().startswith(PNG)
