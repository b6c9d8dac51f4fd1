"""Completing the optimal face, without which the marginals' gradient is wrong.

A solver stops as soon as its support holds the optimal mean. The mean moves with the scores inside the whole
optimal face, though, which usually has more dimensions than the support. So the oracle is asked, at the gradient,
in directions orthogonal to what is already there, until nothing new is optimal.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from structlat.solvers import kernels
from structlat.solvers.supports import Supports
from structlat.structure import Structure

# Three misses in a row contain one direction asked both ways; on a face that is not complete, one of the two finds a
# new vertex, whatever the direction (but for a set of measure zero).
MISSES = 3
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
    supports = Supports(structure, scores, extra, z, p, validate=validate, move=False)
    batch, parts = supports.batch, supports.parts
    private = np.random.default_rng(SEED)  # the same directions for every row: a batch is a loop over its rows
    misses = np.zeros(batch, dtype=np.int64)
    asked = np.zeros(batch, dtype=np.int64)
    directions = np.empty((0, parts))
    rows = np.arange(batch)
    while len(rows):
        supports.make_room()
        while len(directions) <= asked.max() // 2:
            directions = np.vstack([directions, private.standard_normal((16, parts))])
        sign = np.where(asked[rows] % 2 == 0, 1.0, -1.0)
        noise = directions[asked[rows] // 2] * sign[:, None]
        at = np.empty((len(rows), parts))
        kernels.probe(supports.state, rows, supports.flat_scores, noise, at)
        answers = supports.ask(rows, at, supports.extra)
        slots = np.empty(len(rows), dtype=np.int64)
        kernels.widen(supports.state, rows, answers.v, answers.t, slots)
        supports.add(rows, slots, answers.z)
        missed = slots < 0
        misses[rows] = np.where(missed, misses[rows] + 1, 0)
        asked[rows] += 1
        full = supports.state.size[rows] > parts
        rows = rows[(misses[rows] < MISSES) & ~full]
    return supports.members()
