"""The solvers by name, with the one signature that all of them have."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from structlat.solvers import batched
from structlat.solvers.active_set import Solution, active_set
from structlat.structure import Structure


class Solve(Protocol):
    """SparseMAP at gamma = 1 of ``scores`` [B, *shape] and ``extra`` [B, *extra_shape], from ``first`` [B, *event]."""

    def __call__(
        self,
        structure: Structure,
        scores: Tensor,
        extra: tuple[Tensor, ...],
        first: Tensor,
        *,
        tol: float,
        max_iter: int | None,
        validate: bool,
        keep_trace: bool,
        init: tuple[Tensor, Tensor] | None = None,
    ) -> Solution:
        """Converged or not: p > 0 on an affinely independent support, and optimal on it."""


class Method(NamedTuple):
    """How to solve, and whether it is done where the scores are (else on the host)."""

    solve: Solve
    on_device: bool


METHODS = {"active_set": Method(active_set, False)} | {
    name: Method(partial(batched.solve, method=name), True) for name in batched.STEPS
}


def default(device: torch.device) -> str:
    """What "auto" means where a space has no closed form."""
    return "active_set" if device.type == "cpu" else "active_set_torch"
