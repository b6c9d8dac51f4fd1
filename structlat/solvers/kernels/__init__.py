"""Numba kernels of the active-set solver: a row's support, its Cholesky factor, and the steps that change them.

Kernels call kernels of other files, which Numba's cache would not notice: see ``oracles/_jit.py``.
"""

from structlat.solvers.kernels.copies import extract, move, pack_labels, pack_vertices
from structlat.solvers.kernels.face import probe, widen
from structlat.solvers.kernels.rows import Found, Problem, list_rows, solve_rows
from structlat.solvers.kernels.state import (
    CONTINUES,
    CONVERGED,
    INFEASIBLE,
    STALLED,
    ActiveSet,
    Bytes,
    Floats,
    Ints,
    Words,
    empty_state,
)
from structlat.solvers.kernels.steps import advance, ask_all, finish, load

__all__ = [
    "CONTINUES",
    "CONVERGED",
    "INFEASIBLE",
    "STALLED",
    "ActiveSet",
    "Bytes",
    "Floats",
    "Found",
    "Ints",
    "Problem",
    "Words",
    "advance",
    "ask_all",
    "empty_state",
    "extract",
    "finish",
    "list_rows",
    "load",
    "move",
    "pack_labels",
    "pack_vertices",
    "probe",
    "solve_rows",
    "widen",
]
