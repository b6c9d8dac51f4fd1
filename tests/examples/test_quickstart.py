import json
import signal
from importlib.metadata import version

import pytest

from tests.examples.scripts import interrupt, run, start

PNG = b"\x89PNG"
# of all that is reported, what a seed cannot repeat
UNREPEATABLE = ("seconds", "command", "settings")


@pytest.fixture(scope="module")
def output(out):
    """What the script prints; ``out`` is full afterwards."""
    return run("quickstart.py", "--epochs", 1, "--out", out)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("quickstart") / "made" / "by the script"


def results(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("output")
def test_writes_the_picture_and_the_results_and_nothing_else(out):
    assert sorted(path.name for path in out.iterdir()) == ["quickstart.png", "results.jsonl"]
    assert (out / "quickstart.png").read_bytes().startswith(PNG)
    lines = results(out)
    assert [line["method"] for line in lines] == ["sparsemap", "topk_sparsemax", "sparsemax"]
    assert [line["structures"] for line in lines] == [2**32, 2**32, 529]
    for line in lines:
        # better than 17 equally probable grey levels, and no better than a tenth of a bit
        assert 0.1 < line["bits_per_pixel"] < 4.1
        assert 1 <= line["support"] <= 529
        assert 1 <= line["decoder_calls"] <= 529
        assert line["epochs"] == 1
        assert not line["interrupted"]
        assert line["settings"]["seed"] == 0
        assert line["versions"]["torch"] == version("torch")
    assert lines[1]["support"] <= 10


def test_shows_progress_and_a_table_that_explains_itself(out, output):
    for shown in ("loss=", "support=", "decoder calls="):
        assert shown in output
    table = output[output.index("method ") :]
    for line in results(out):
        assert f"{line['method']} " in table
        assert f"{line['bits_per_pixel']:.3f}" in table
    for column in ("bits a pixel:", "mean support:", "decoder calls an image:", "seconds:"):
        assert f"\n{column}" in table


@pytest.mark.usefixtures("output")
def test_the_same_seed_gives_the_same_numbers_whatever_else_is_trained(out, tmp_path):
    run("quickstart.py", "--epochs", 1, "--methods", "sparsemax", "sparsemap", "--out", tmp_path)

    def repeatable(line):
        return {name: value for name, value in line.items() if name not in UNREPEATABLE}

    first, again = results(out), results(tmp_path)
    assert [repeatable(line) for line in again] == [repeatable(first[2]), repeatable(first[0])]


def test_help_explains_every_option():
    output = run("quickstart.py", "--help")
    for option in ("methods", "epochs", "batch_size", "learning_rate", "k", "seed", "out"):
        line = next(x for x in output.splitlines() if x.strip().startswith(f"--{option} "))
        rest = output[output.index(line) :].split("--", 2)[1]
        assert "default" in rest, rest


def test_control_c_ends_it_with_what_was_learned(tmp_path):
    process = start("quickstart.py", "--epochs", 10_000, "--methods", "sparsemax", "topk_sparsemax", "--out", tmp_path)
    output = interrupt(process, "20/")  # it is training
    assert "sparsemax (stopped)" in output
    (line,) = results(tmp_path)
    assert line["interrupted"]
    assert 0 < line["epochs"] < 10_000
    assert (tmp_path / "quickstart.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("module", ["numpy", "torch.nn.modules"])
def test_control_c_while_it_imports(tmp_path, monkeypatch, module):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # says which module has just been imported
    process = start("quickstart.py", "--out", tmp_path)
    for line in process.stdout:
        if line.rstrip().endswith(f" {module}"):
            break
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output, output
