import importlib
import json
import os
import subprocess
import sys

import pytest

from tests.examples import tiny_data
from tests.examples.scripts import ROOT, run

PNG = b"\x89PNG"
SIZES = {"epochs": 2, "steps": 2, "batch_size": 4, "validation_games": 10, "test_games": 10}


@pytest.fixture(scope="module")
def reproduce():
    return importlib.import_module("reproduce")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    tiny_data.write(root / "FashionMNIST" / "raw", train=1800, test=800)
    return root


@pytest.fixture
def grid(reproduce, data_root, tmp_path):
    """Two methods of table 2, a few steps each."""

    def make(**changes):
        chosen = {"table": 2, "methods": ["sfe+", "sparsemax"], "options": SIZES | {"data_root": str(data_root)}}
        places = {"out": str(tmp_path / "results" / "game.jsonl"), "scratch": str(tmp_path / "scratch")}
        return reproduce.Grid(**(chosen | places | changes))

    return make


def results(tmp_path):
    return [json.loads(line) for line in (tmp_path / "results" / "game.jsonl").read_text().splitlines()]


def test_what_is_missing_is_run_and_nothing_else(reproduce, grid, tmp_path, capsys):
    assert reproduce.main(grid()) == 0
    first = results(tmp_path)
    assert [(line["method"], line["seed"]) for line in first] == [("sfe+", 0), ("sparsemax", 0)]
    assert "2 cells, 0 of them done before" in capsys.readouterr().out

    assert reproduce.main(grid()) == 0
    assert results(tmp_path) == first
    assert "2 cells, 2 of them done before" in capsys.readouterr().out

    # half a line, of a machine that went off: the cell is run again, and the file stays readable
    content = (tmp_path / "results" / "game.jsonl").read_bytes()
    (tmp_path / "results" / "game.jsonl").write_bytes(content[:-100])
    assert reproduce.main(grid(seeds=2)) == 0
    lines = reproduce.read_lines(tmp_path / "results" / "game.jsonl")
    assert sorted((line["method"], line["seed"]) for line in lines) == [
        ("sfe+", 0),
        ("sfe+", 1),
        ("sparsemax", 0),
        ("sparsemax", 1),
    ]


def test_the_table_and_the_curves(reproduce, grid, tmp_path):
    grid = grid(seeds=2)
    reproduce.main(grid)
    page = tmp_path / "results" / "game.md"
    head, _, *rows = page.read_text().splitlines()[1:-1]
    assert [x.strip() for x in head.strip("|").split("|")][:3] == ["method", "seeds", "success, %"]
    lines = results(tmp_path)
    assert len(rows) == 2
    for row, method in zip(rows, ["sfe+", "sparsemax"], strict=True):
        cells = [x.strip() for x in row.strip("|").split("|")]
        one, other = (100 * line["metrics"]["success"] for line in lines if line["method"] == method)
        assert cells[:2] == [method, "2"]
        assert cells[2] == f"{(one + other) / 2:.1f} ± {abs(one - other) / 2**0.5:.1f}"
        assert cells[-2:] == list(reproduce.TABLES[2].paper[method])
    assert next((tmp_path / "results").glob("game*.png")).read_bytes().startswith(PNG)

    # what a person writes around the table stays
    page.write_text("Before.\n" + page.read_text() + "After.\n")
    lines[0]["metrics"]["success"] = 1.0
    (tmp_path / "results" / "game.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reproduce.main(grid)
    text = page.read_text()
    assert text.startswith("Before.\n<!-- written by")
    assert text.endswith("-->\nAfter.\n")
    assert rows[0] not in text
    assert rows[1] in text

    # other options have a table of their own on the page, and a picture
    grid.options |= {"steps": 1}
    reproduce.main(grid)
    both = page.read_text()
    assert both.startswith(text)
    assert "--options.steps 1" in both[len(text) :]
    assert str(tmp_path) not in both
    assert len(list(page.parent.glob("*steps_1*.png"))) == 1


def test_a_line_of_other_settings_is_no_cell_of_this_grid(reproduce, grid):
    script = "signal_game"
    game = importlib.import_module(script)
    cell = {"estimator": "sfe", "preset": "quick", "seed": 0}

    def line(**changes):
        settings = game.resolve(game.GameSettings(**(cell | changes)))
        return {"experiment": script, "config": settings.config()}

    own = line()
    others = [
        line(seed=1),
        line(estimator="sfe+"),
        line(preset="paper"),
        line(dataset="mnist"),  # not the script's default
        line(epochs=3),  # not the preset's
        line() | {"experiment": "semi_supervised_vae"},
    ]
    assert reproduce.line_of(cell, script, others) is None
    assert reproduce.line_of(cell, script, [*others, own, others[0]]) is own
    assert reproduce.line_of(cell | {"epochs": 3}, script, [own, *others]) is others[4]
    # a cell that asks for what is the preset's anyway
    assert reproduce.line_of(cell | {"epochs": 20}, script, [own]) is own


def test_methods_that_come_later_join_the_table(reproduce, grid, tmp_path):
    reproduce.main(grid(methods=["sparsemax"]))
    reproduce.main(grid(methods=["nvil"], seeds=2))
    rows = (tmp_path / "results" / "game.md").read_text().splitlines()[3:-1]
    assert [[x.strip() for x in row.strip("|").split("|")][:2] for row in rows] == [["nvil", "2"], ["sparsemax", "1"]]


def test_a_table_without_an_end_is_left_alone(reproduce, grid, tmp_path):
    reproduce.main(grid(methods=["sfe"]))
    page = tmp_path / "results" / "game.md"
    broken = page.read_text().replace(reproduce.END, "What somebody wrote.")
    page.write_text(broken)
    with pytest.raises(ValueError, match="a table begins there and does not end"):
        reproduce.main(grid(methods=["sfe"]))
    assert page.read_text() == broken


def test_data_are_not_mixed(reproduce, grid, tmp_path):
    reproduce.main(grid(methods=["sfe", "nvil"]))
    lines = results(tmp_path)
    lines[0]["data"]["md5"] = {}
    (tmp_path / "results" / "game.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="different files of data"):
        reproduce.main(grid(methods=["sfe", "nvil"]))


def test_a_preset_that_changed_and_an_option_that_came(reproduce, monkeypatch):
    """A line of other numbers is no finished cell; one that is older than an option has its default."""
    game = importlib.import_module("signal_game")
    cell = {"estimator": "sfe", "preset": "quick", "seed": 0}
    line = {"experiment": "signal_game", "config": game.resolve(game.GameSettings(**cell)).config()}
    del line["config"]["divisor"]
    assert reproduce.line_of(cell, "signal_game", [line]) is line
    assert reproduce.line_of(cell | {"divisor": 1.0}, "signal_game", [line]) is None
    monkeypatch.setitem(game.PRESETS["quick"]["*"], "learning_rate", 1.0)
    assert reproduce.line_of(cell, "signal_game", [line]) is None


def test_bits_that_the_paper_has_not(reproduce):
    line = {
        "method": "sfe",
        "calls": 1.0,
        "seconds": 1.0,
        "metrics": {"negative_log_likelihood": 4, "negative_elbo": 5},
    }
    text = reproduce.markdown(reproduce.TABLES[3], [line | {"bits": 16}, line | {"bits": 32}])
    last = [[x.strip() for x in row.strip("|").split("|")][-1] for row in text.splitlines()[2:]]
    assert last == ["", "3.74"]


def test_cells_in_processes(tmp_path, data_root):
    options = [f"--options.{name}={value}" for name, value in (SIZES | {"data_root": data_root}).items()]
    words = ["--table", 2, "--methods", "sfe", "softmax", "--jobs", 2, *options]
    output = run("reproduce.py", *words, "--out", tmp_path / "game.jsonl", "--scratch", tmp_path / "scratch")
    assert "2/2" in output
    assert "| softmax" in output
    lines = [json.loads(line) for line in (tmp_path / "game.jsonl").read_text().splitlines()]
    assert sorted(line["method"] for line in lines) == ["sfe", "softmax"]
    assert "Written: " in output


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_cells_on_a_cluster(backend, tmp_path, data_root):
    """On one of this machine's own; the warnings of the two libraries are theirs."""
    options = [f"--options.{name}={value}" for name, value in (SIZES | {"data_root": data_root}).items()]
    words = ["--table", "2", "--methods", "sfe", "no-such-method", "--jobs", "2", "--backend", backend, *options]
    places = ["--out", tmp_path / "game.jsonl", "--scratch", tmp_path / "scratch"]
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "reproduce.py", *words, *places],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1, done.stderr
    assert "| sfe" in done.stdout
    assert "no-such-method" in done.stderr.rpartition("Failed: ")[2]
    lines = [json.loads(line) for line in (tmp_path / "game.jsonl").read_text().splitlines()]
    assert [line["method"] for line in lines] == ["sfe"]


def test_a_cluster_that_is_not_installed(reproduce, grid, monkeypatch):
    for backend, module in (("dask", "dask.distributed"), ("ray", "ray.util.joblib")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=f"--backend {backend}.*structlat.cluster"):
            reproduce.main(grid(methods=["sfe"], backend=backend))


def test_a_cell_that_fails_is_told_and_the_others_are_run(reproduce, grid, tmp_path, capsys):
    assert reproduce.main(grid(methods=["no-such-method", "sfe"])) == 1
    assert [line["method"] for line in results(tmp_path)] == ["sfe"]
    error = capsys.readouterr().err
    assert "Failed: {'estimator': 'no-such-method'" in error
    assert "one of" in error


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_grids_are_the_papers(reproduce, number):
    table = reproduce.TABLES[number]
    cells = reproduce.cells_of(reproduce.Grid(table=number, seeds=2))
    assert len(cells) == 2 * len(table.methods) * len(table.bits)
    assert set(table.paper) <= set(table.methods)
    settings = reproduce.settings_class(table.script)
    for cell in cells:
        assert settings(**cell).estimator in table.methods
    assert all(len(row) == 2 for row in table.paper.values())
