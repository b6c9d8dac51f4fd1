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
from structlat.solvers.kernels import Floats, Ints
from structlat.solvers.supports import Supports
from structlat.structure import Structure

PAIRS = 4
SEED = 20200601


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
    supports = Supports(structure, scores, extra, z, p, validate=validate, moves=False)
    private = np.random.default_rng(SEED)  # the same directions for every row: a batch is a loop over its rows
    q = np.zeros((supports.batch, PAIRS, supports.state.mean.shape[1] + 1))
    rounds = 0
    while len(supports.lanes):
        pairs = min(2**rounds, PAIRS)
        moved = supports.make_room(2 * pairs)
        if moved is not None:
            q = q[moved]
        # One direction a round is drawn anew, and more while their number grows: on a face that is not complete a
        # direction, asked both ways, finds a new vertex (but for a set of measure zero).
        fresh = range(pairs // 2, pairs) if 2**rounds <= PAIRS else [rounds % PAIRS]
        found = _widen(supports, q, pairs, [(k, private.standard_normal(supports.parts)) for k in fresh])
        rounds += 1
        stays = (found > 0) & (supports.state.size[supports.lanes] <= supports.parts)
        if not stays.all():
            supports.retain(stays)
    return supports.members()


def _widen(supports: Supports, q: Floats, pairs: int, fresh: list[tuple[int, Floats]]) -> Ints:
    """Ask all lanes [N] in so many directions, both ways; says how many vertices each has found."""
    state, lanes, scores = supports.state, supports.lanes, supports.scores
    n = len(lanes)
    at = np.empty((n, 2 * pairs, supports.parts))
    status, found = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)

    def ask(start: int, stop: int) -> None:
        for which, noise in fresh:
            kernels.aim(state, lanes, noise, which, q, start, stop)
        kernels.probe(state, lanes, scores, q, pairs, at, start, stop)

    supports.spread(ask, n)
    z = supports.ask(at.reshape(n * 2 * pairs, -1), 2 * pairs)
    answers = supports.describe(z.reshape(n, 2 * pairs, *z.shape[1:]))

    given = (answers.v, answers.more, answers.z)
    supports.spread(partial(kernels.widen, state, lanes, scores, q, *given, status, found), n)
    supports.refuse(status, answers.v)
    return found
