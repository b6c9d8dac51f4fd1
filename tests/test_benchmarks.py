"""Every benchmark runs, at small sizes, and writes what the documentation quotes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# the tests share two cores: where torch's threads wait actively for each other, that takes a hundred times as long
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
PNG = b"\x89PNG"
SPREAD = {"median", "quartile_1", "quartile_3", "min", "max"}


def bench(name, out):
    """What the script wrote, and what it printed."""
    command = [sys.executable, "-W", "error", str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--runs", "2"]
    path = out / "made" / f"{name}.json"
    done = subprocess.run(
        [*command, "--out", str(path)],
        env=ENVIRONMENT,
        cwd=out,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    written = json.loads(path.read_text())
    assert str(out) not in path.read_text()
    assert written["command"] == f"python benchmarks/{name}.py --runs 2 --quick"
    assert {"processor", "cores", "memory_gib"} <= set(written["machine"])
    assert {"python", "torch", "numpy", "numba", "structlat"} <= set(written["versions"])
    assert {file.suffix for file in path.parent.iterdir()} <= {".json", ".png"}
    return written, done.stdout


def check_spread(ms):
    assert set(ms) == SPREAD
    assert 0 < ms["min"] <= ms["quartile_1"] <= ms["median"] <= ms["quartile_3"] <= ms["max"]


def test_structures(tmp_path):
    written, output = bench("structures", tmp_path)
    keys = [(r["structure"], r["batch"], r["scale"], r["read"], r["mode"], r["threads"]) for r in written["results"]]
    assert len(set(keys)) == len(keys)
    assert {key[3] for key in keys} == {"marginals", "all", "active set"}
    assert {key[4] for key in keys} == {"forward", "forward + backward"}
    assert 1 in {key[5] for key in keys}
    assert "Left out by design" in output
    for result in written["results"]:
        check_spread(result["ms"])


def test_spaces(tmp_path):
    written, _ = bench("spaces", tmp_path)
    compared = {(r["structure"], r["what"]) for r in written["results"] if r["times_faster"]}
    assert {("chain 32x16", "top-4"), ("projective tree 20", "log-partition"), ("tree 20", "MAP")} <= compared
    for result in written["results"]:
        for ms in result["ms"].values():
            check_spread(ms)
    assert {curve["axis"] for curve in written["growth"]} == {"length", "k"}
    for curve in written["growth"]:
        assert len(curve["values"]) == len(curve["ms"])
        assert isinstance(curve["exponent"], float)
    assert (tmp_path / "made" / "spaces.png").read_bytes().startswith(PNG)


@pytest.mark.nightly
def test_what_takes_too_long_is_named(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "structures.py"), "--quick", "--runs", "2", "--limit", "1e-9"]
    path = tmp_path / "none.json"
    subprocess.run([*command, "--out", str(path)], env=ENVIRONMENT, check=True)
    written = json.loads(path.read_text())
    assert written["results"] == []
    assert all("predicted" in case["why"] for case in written["left_out"])
    assert {"structure", "batch", "scale", "read", "mode", "threads", "why"} == set(written["left_out"][0])


def test_growth(tmp_path):
    written, _ = bench("growth", tmp_path)
    assert written["peak_memory"]["target_mib"] == 256
    assert 0 < written["peak_memory"]["mib"] < 256
    for result in written["results"]:
        assert len(result["values"]) == len(result["ms"]) == len(result["mib"])
        assert isinstance(result["exponent_time"], float)
        for ms in result["ms"]:
            check_spread(ms)
    assert (tmp_path / "made" / "growth.png").read_bytes().startswith(PNG)


def test_solvers(tmp_path):
    written, _ = bench("solvers", tmp_path)
    solvers = ["active_set", "active_set_torch", "vanilla", "away", "pairwise", "blended_pairwise"]
    for tolerance in (1e-3, 1e-6, 1e-9):
        assert [r["solver"] for r in written["results"] if r["tolerance"] == tolerance] == solvers
    for result in written["results"]:
        if result["converged"] == 1:
            check_spread(result["ms"])
        else:
            assert result["ms"] is None
    assert [case["change"] for case in written["warm_start"]] == [1e-3, 1e-2, 1e-1]
    for case in written["warm_start"]:
        assert case["times_fewer_rounds"] == round(case["rounds"]["cold"] / case["rounds"]["warm"], 2) > 1
    assert (tmp_path / "made" / "solvers.png").read_bytes().startswith(PNG)


def test_topk(tmp_path):
    written, _ = bench("topk", tmp_path)
    assert {(r["structure"], r["k"]) for r in written["results"]} >= {("bits 32", 10), ("bits 128", 10)}
    assert {r["what"] for r in written["results"]} == {"topk", "topk_sparsemax", "with gradient"}
    for result in written["results"]:
        check_spread(result["ms"])
        assert 1 <= result["mean_support"] <= result["k"]
    assert (tmp_path / "made" / "topk.png").read_bytes().startswith(PNG)


def test_threads(tmp_path):
    written, _ = bench("threads", tmp_path)
    for result in written["results"]:
        check_spread(result["ms"])
        if result["threads"] == 1:
            assert result["times_faster"] == 1


def test_peers(tmp_path):
    written, output = bench("peers", tmp_path)
    assert written["peers"] or "The peers cannot be imported" in output
    problems = ["bits 32", "bits 128", "budget 32", "budget 128", "chain 20x5", "chain 40x10"]
    ours = {r["problem"]: r for r in written["results"] if r["alternative"] == "active set"}
    assert list(ours) == problems
    for result in ours.values():
        check_spread(result["ms"])
        assert result["agrees"]
        assert result["error"] <= 1e-6


@pytest.mark.nightly
def test_simplex(tmp_path):
    pytest.importorskip("entmax")
    written, _ = bench("simplex", tmp_path)
    for result in written["results"]:
        for ms in result["times"].values():
            check_spread(ms)
        assert set(result["times_faster"]) == {"entmax", "entmax, k=100"}


def test_every_script_has_a_test_and_a_line():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"harness", "report"}
    assert scripts == {name.removeprefix("test_") for name in globals() if name.startswith("test_")} & scripts
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for script in scripts:
        assert f"| `{script}.py` |" in readme
        assert script in makefile
