"""Numba kernels of the active-set solver: a row's support, its Cholesky factor, and the steps that change them.

Kernels call kernels of other files, which Numba's cache would not notice: see ``oracles/_jit.py``.
"""

from structlat.solvers.kernels.copies import extract, move, pack_labels, pack_vertices
from structlat.solvers.kernels.face import probe, widen
from structlat.solvers.kernels.rows import Found, Problem, list_rows, room_for, solve_rows
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
    new_state,
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
    "extract",
    "finish",
    "list_rows",
    "load",
    "move",
    "new_state",
    "pack_labels",
    "pack_vertices",
    "probe",
    "room_for",
    "solve_rows",
    "widen",
]
