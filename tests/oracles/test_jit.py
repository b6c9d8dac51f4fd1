"""Compiled code on disk: done without where there is no place, shared by processes, dropped when sources change."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import oracles

ROOT = Path(oracles.__path__[0]).parent
NOWHERE = f"{os.devnull}/cache"  # under a file: not even root can make it


def copy(to, *packages):
    """The packages, in a place where no ``__pycache__`` can be made."""
    for package in packages:
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__"))
        for directory in [to / package, *(path for path in (to / package).rglob("*") if path.is_dir())]:
            (directory / "__pycache__").touch()
    return to


def run(code, root, **environment):
    known = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **known, **environment},
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process):
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    return out


ONE = "import numpy as np; from oracles import bits; print(bits.topk(np.ones((1, 3)), 2)[0].sum())"
SOLVE = """
import torch, structlat as sl
assert sl.__file__.startswith({root!r}), sl.__file__
x = torch.tensor([[0.2, 3.0, -3.0]], dtype=torch.float64, requires_grad=True)
print([round(m, 6) for m in sl.sparsemap(sl.BitVector(3, symmetric=False), x, solver="active_set").mean[0].tolist()])
"""


def test_without_a_place_for_compiled_code(tmp_path):
    root = copy(tmp_path, "oracles")
    assert said(run(ONE, root, NUMBA_CACHE_DIR=NOWHERE, HOME=os.devnull, XDG_CACHE_HOME=NOWHERE)) == "5\n"


@pytest.mark.nightly
def test_the_solver_without_a_place_for_compiled_code(tmp_path):
    root = copy(tmp_path, "oracles", "structlat")
    process = run(SOLVE.format(root=str(root)), root, NUMBA_CACHE_DIR=NOWHERE, HOME=os.devnull, XDG_CACHE_HOME=NOWHERE)
    assert said(process) == "[0.2, 1.0, 0.0]\n"


def test_a_cache_that_fills_up(tmp_path):
    """The directory is there when kernels are declared, and refuses when they have been compiled."""
    code = f"import shutil; from oracles import bits; shutil.rmtree({str(tmp_path / 'c')!r}); " + (
        f"open({str(tmp_path / 'c')!r}, 'w'); " + ONE
    )
    assert said(run(code, ROOT, NUMBA_CACHE_DIR=str(tmp_path / "c"))) == "5\n"


def test_several_processes_compile_at_once(tmp_path):
    processes = [run(ONE, ROOT, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(3)]
    assert [said(process) for process in processes] == ["5\n"] * 3
    assert said(run(ONE, ROOT, NUMBA_CACHE_DIR=str(tmp_path))) == "5\n"


def test_a_change_in_another_file_is_noticed(tmp_path):
    """A kernel that calls one of another file is compiled again when that file changes."""
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "caller.py").write_text(
        "from oracles._jit import kernel\nfrom kernels.called import one\n\n@kernel\ndef two():\n    return one() + 1\n"
    )
    answers = []
    for value in (1, 1, 5):
        (package / "called.py").write_text(
            f"from oracles._jit import kernel\n\n@kernel\ndef one():\n    return {value}\n"
        )
        code = (
            "from kernels.caller import two; answer = two(); s = two.stats; "
            "print(answer, len(s.cache_hits), len(s.cache_misses))"
        )
        root = f"{tmp_path}{os.pathsep}{ROOT}"
        answers.append(said(run(code, tmp_path, PYTHONPATH=root, NUMBA_CACHE_DIR=str(tmp_path / "cache"))))
    assert answers == ["2 0 1\n", "2 1 0\n", "6 0 1\n"]
