"""The active-set method for SparseMAP, over a batch and any MAP oracle.

Min-norm-point algorithm of Wolfe (1976), as Niculae et al. (2018, *SparseMAP*, section 3.2 and appendix B) use it:
ask for the best structure at the gradient, let it in, go to the optimum of the support, drop what reaches zero on
the way.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from structlat.solvers import kernels
from structlat.solvers.compiled import oracle_of, solve_rows
from structlat.solvers.info import Trace
from structlat.solvers.kernels import Floats, Ints
from structlat.solvers.supports import Answers, Supports
from structlat.structure import Structure


class Solution(NamedTuple):
    """Where the method ended: z [B, K, *event], p [B, K] float64, K >= 1, and what it took, [B].

    Most probable first; padding repeats the row's first structure with p = 0. The gap is in units of scores / gamma.
    """

    z: Tensor
    p: Tensor
    gap: Tensor
    iterations: Tensor
    oracle_calls: Tensor
    converged: Tensor
    trace: Trace | None


def rounds_at_most(parts: int) -> int:
    """The default: tens of rounds are usual, and scores that are tiny beside gamma, with extra ones, take very many."""
    return 100_000 + 1_000 * parts


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
    p [B, K]. Where the oracle is compiled, rows are solved one by one, without Python in between. Elsewhere, and where
    every answer is to be checked or every round to be kept, all unfinished rows go to the oracle in one call a round;
    finished rows leave. Whether a row converged or not, its p is the optimum on an affinely independent support, with
    every p > 0.
    """
    z, p = first.unsqueeze(1), torch.ones(len(first), 1, dtype=torch.float64, device="cpu")
    if init is not None:
        z = torch.cat([z, init[0].to(z.dtype)], 1)
        p = torch.cat([torch.zeros_like(p), init[1].to(torch.float64)], 1)
    limit = rounds_at_most(scores.shape[1:].numel()) if max_iter is None else max_iter
    oracle = None if validate or keep_trace else oracle_of(structure)
    if oracle is not None:
        rows = solve_rows(structure, oracle, scores, extra, z, p, tol=tol, limit=limit)
        count, done = torch.from_numpy(rows.rounds), torch.from_numpy(rows.status == kernels.CONVERGED)
        return Solution(rows.z, rows.p, torch.from_numpy(rows.gap), count, count + 1, done, None)
    supports = Supports(structure, scores, extra, z, p, validate=validate)
    batch = supports.batch
    gap = np.full(batch, np.inf)
    iterations = np.zeros(batch, dtype=np.int64)
    converged = np.zeros(batch, dtype=bool)
    history: list[tuple[Tensor, Tensor]] = []
    at = np.empty((batch, supports.parts))
    kernels.ask_all(supports.state, supports.lanes, supports.scores, at)
    rounds = 0
    while len(supports.lanes) and rounds < limit:
        rounds += 1
        supports.make_room()
        answers = supports.describe(supports.ask(at).unsqueeze(1))
        at, row_gap, status = _advance(supports, answers, tol)
        lanes_rows = supports.state.row[supports.lanes]
        if keep_trace:
            history.append(_snapshot(supports, lanes_rows, row_gap))
        stays = status == kernels.CONTINUES
        if rounds == limit or not stays.all():
            gap[lanes_rows], iterations[lanes_rows] = row_gap, rounds
            converged[lanes_rows] = status == kernels.CONVERGED
            (at,) = supports.retain(stays, at)
    z, p, _ = supports.members()
    return Solution(
        z,
        p,
        torch.from_numpy(gap),
        torch.from_numpy(iterations),
        torch.from_numpy(iterations + 1),  # the first structure was an oracle call of its own
        torch.from_numpy(converged),
        Trace(*(torch.stack(x) for x in zip(*history, strict=True))) if history else None,
    )


def _advance(supports: Supports, answers: Answers, tol: float) -> tuple[Floats, Floats, Ints]:
    """One round of the kernels: what to ask next [N, d], gap [N], and status [N]."""
    state, lanes, scores = supports.state, supports.lanes, supports.scores
    n = len(lanes)
    at, gap, status = np.empty((n, supports.parts)), np.empty(n), np.empty(n, dtype=np.int64)

    given = (answers.v[:, 0], answers.more[:, :, 0], answers.z[:, 0], tol)
    supports.spread(partial(kernels.advance, state, lanes, scores, *given, gap, status, at), n)
    if (status > kernels.STALLED).any():
        supports.refuse(status)
    return at, gap, status


def _snapshot(supports: Supports, rows: Ints, row_gap: Floats) -> tuple[Tensor, Tensor]:
    gap = torch.full((supports.batch,), torch.nan, dtype=torch.float64, device="cpu")
    size = torch.zeros(supports.batch, dtype=torch.int64, device="cpu")
    gap[torch.from_numpy(rows)] = torch.from_numpy(row_gap)
    size[torch.from_numpy(rows)] = torch.from_numpy(supports.state.size[supports.lanes])
    return gap, size
