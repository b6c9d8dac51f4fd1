"""Completing the optimal face, without which the marginals' gradient is wrong.

A solver stops as soon as its support holds the optimal mean. The mean moves with the scores inside the whole
optimal face, though, which usually has more dimensions than the support. So the oracle is asked, at the gradient,
in directions orthogonal to what is already there, until nothing new is optimal.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from structlat.solvers import kernels
from structlat.solvers.compiled import oracle_of, solve_rows
from structlat.solvers.kernels import Ints
from structlat.solvers.supports import Supports
from structlat.structure import Structure

PAIRS = 4


def complete_face(
    structure: Structure,
    scores: Tensor,
    extra: tuple[Tensor, ...],
    z: Tensor,
    p: Tensor,
    validate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Widen the support of an optimal p [B, K] on z [B, K, *event] to affinely independent vertices of its face.

    Returns z [B, K', *event], p [B, K'] and where they are, [B, K'] bool: those that the support lacked come last,
    with p = 0; padding repeats the row's first.
    """
    oracle = None if validate else oracle_of(structure)
    if oracle is not None:
        rows = solve_rows(structure, oracle, scores, extra, z, p, face=True)
        return rows.z, rows.p, rows.mask
    supports = Supports(structure, scores, extra, z, p, validate=validate, moves=False)
    pairs, drawn = 1, 0
    while len(supports.lanes):
        # On a face that is not complete a direction, asked both ways, finds a new vertex (but for a set of measure
        # zero). Where there is nothing to find that takes two questions; where there is, more are asked at once.
        supports.make_room(2 * pairs)
        found = _widen(supports, drawn, pairs)
        drawn += pairs
        stays = (found > 0) & (supports.state.size[supports.lanes] <= supports.parts)
        if not stays.all():
            supports.retain(stays)
        pairs = min(2 * pairs, PAIRS)
    return supports.members()


def _widen(supports: Supports, number: int, pairs: int) -> Ints:
    """Ask all lanes [N] in so many directions from ``number`` on, both ways; says how many vertices each has found."""
    state, lanes, scores = supports.state, supports.lanes, supports.scores
    n, questions = len(lanes), 2 * pairs
    at = np.empty((n, questions, supports.parts))
    supports.spread(partial(kernels.probe, state, lanes, scores, number, at), n)
    z = supports.ask(at, questions)
    answers = supports.describe(z.reshape(n, questions, *z.shape[1:]))
    status, found = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    given = (answers.v, answers.more, answers.z)
    supports.spread(partial(kernels.widen, state, lanes, scores, *given, status, found), n)
    supports.refuse(status)
    return found
