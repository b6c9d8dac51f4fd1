"""The active-set method for SparseMAP, over a batch and any MAP oracle.

Min-norm-point algorithm of Wolfe (1976), as Niculae et al. (2018, *SparseMAP*, section 3.2 and appendix B) use it:
ask for the best structure at the gradient, let it in, go to the optimum of the support, drop what reaches zero on
the way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from structlat.solvers import kernels
from structlat.solvers.info import Trace
from structlat.solvers.supports import Supports
from structlat.structure import Structure


class Solution(NamedTuple):
    """Where the method ended: z [B, K, *event], p [B, K] float64, K >= 1, and what it took, [B].

    Padding repeats the row's first structure with p = 0; the gap is in units of scores / gamma.
    """

    z: Tensor
    p: Tensor
    gap: Tensor
    iterations: Tensor
    oracle_calls: Tensor
    converged: Tensor
    trace: Trace | None


def active_set(
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
    """Solve SparseMAP with gamma = 1 for ``scores`` [B, *shape] and ``extra`` [B, *extra_shape].

    It starts from the MAP structures ``first`` [B, *event], or from ``init``, an earlier answer: z [B, K, *event] and
    p [B, K]. All unfinished rows go to the oracle in one call a round;
    finished rows leave. Whether a row converged or not, its p is the optimum on an affinely independent support, with
    every p > 0.
    """
    z, p = first.unsqueeze(1), torch.ones(len(first), 1, dtype=torch.float64, device="cpu")
    if init is not None:
        z = torch.cat([z, init[0].to(z.dtype)], 1)
        p = torch.cat([torch.zeros_like(p), init[1].to(torch.float64)], 1)
    supports = Supports(structure, scores, extra, z, p, validate=validate)
    batch = supports.batch
    limit = 10_000 + 100 * supports.parts if max_iter is None else max_iter
    gap = np.full(batch, np.inf)
    iterations = np.zeros(batch, dtype=np.int64)
    converged = np.zeros(batch, dtype=bool)
    history: list[tuple[Tensor, Tensor]] = []
    rows = np.arange(batch)
    rounds = 0
    while len(rows) and rounds < limit:
        rounds += 1
        supports.make_room()
        gradient = np.empty((len(rows), supports.parts))
        kernels.gradient(supports.state, rows, supports.flat_scores, gradient)
        answers = supports.ask(rows, gradient, supports.extra_above_ties)
        row_gap = np.empty(len(rows))
        status, slots = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int64)
        kernels.advance(supports.state, rows, answers.v, answers.t, answers.used, tol, row_gap, status, slots)
        supports.add(rows, slots, answers.z)
        gap[rows] = row_gap
        iterations[rows] += 1
        converged[rows] = status == kernels.CONVERGED
        if keep_trace:
            history.append(_snapshot(supports, rows, row_gap))
        rows = rows[status == kernels.CONTINUES]
    kernels.finish(supports.state, np.arange(batch))
    trace = Trace(*(torch.stack(x) for x in zip(*history, strict=True))) if history else None
    z, p, _ = supports.members()
    return Solution(
        z,
        p,
        torch.from_numpy(gap),
        torch.from_numpy(iterations),
        torch.from_numpy(iterations + 1),  # the first structure was an oracle call of its own
        torch.from_numpy(converged),
        trace,
    )


def polish(
    structure: Structure, scores: Tensor, extra: tuple[Tensor, ...], z: Tensor, p: Tensor
) -> tuple[Tensor, Tensor]:
    """Reduce p [B, K] on z [B, K, *event] to an affinely independent support and move to the optimum on it.

    The objective never goes down, and what stays has p > 0. Returns z [B, K', *event], p [B, K'], padded as in
    :class:`Solution`.
    """
    z, p, _ = Supports(structure, scores, extra, z, p, validate=False).members()
    return z, p


def _snapshot(supports: Supports, rows: np.ndarray, row_gap: np.ndarray) -> tuple[Tensor, Tensor]:
    gap = torch.full((supports.batch,), torch.nan, dtype=torch.float64, device="cpu")
    size = torch.zeros(supports.batch, dtype=torch.int64, device="cpu")
    gap[rows] = torch.from_numpy(row_gap)
    size[rows] = torch.from_numpy(supports.state.size[rows])
    return gap, size
