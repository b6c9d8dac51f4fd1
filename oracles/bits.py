"""Oracles for n independent bits: a structure is a vector of n bits, its score the sum over the bits on.

MAP turns on what is above 0, O(n). The k best differ from it in the k - 1 cheapest bits at most, the cost
of flipping a bit being |score|: select those in O(n), then list their subsets by a heap, O(k log k) (see
`_subsets`). A bit of score -inf is off in every feasible structure. Where scores tie the bit with the lower
index flips first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from oracles._arrays import Bools, Floats, as_count, as_scores, best_first, largest
from oracles._subsets import cheapest_flips
from oracles.compiled import Compiled, address


def argmax(scores: npt.ArrayLike) -> Bools:
    """The best bits of each row, on where the score is above 0: scores [B, n] -> [B, n]."""
    return as_scores("scores", scores, "B, n") > 0


def topk(scores: npt.ArrayLike, k: int) -> tuple[Bools, Bools]:
    """The k best bit-vectors of each row, best first.

    Parameters
    ----------
    scores : [B, n]
    k : at least 1; may exceed 2^n

    Returns
    -------
    z : [B, k, n] bool; where invalid, the row's first vector again
    valid : [B, k] bool, the leading min(k, 2^(scores above -inf))
    """
    array, k = as_scores("scores", scores, "B, n"), as_count("k", k)
    index = largest(-np.abs(array), min(k - 1, array.shape[1]))
    costs = np.abs(np.take_along_axis(array, index, axis=1))
    z = np.repeat((array > 0)[:, None, :], k, axis=1)
    count = np.empty(len(array), np.int64)
    cheapest_flips(costs, index, z, count)
    z, valid, _ = best_first(z, scores_of(z, array), count)
    return z, valid


def scores_of(z: Bools, scores: Floats) -> Floats:
    """The score of each structure: z [B, k, n], scores [B, n] -> [B, k]."""
    total: Floats = np.where(z, scores[:, None, :], 0.0).sum(axis=2)
    return total


def enumerate(n: int) -> Bools:
    """Every vector of n bits, [2^n, n], in the order of binary numbers."""
    n = as_count("n", n)
    return (np.arange(1 << n)[:, None] >> np.arange(n)[::-1] & 1).astype(np.bool_)


def cardinality(n: int) -> int:
    """2^n."""
    return 1 << as_count("n", n)


def compiled(n: int) -> Compiled:
    """The oracle as C functions."""
    return Compiled(address(_best), address(_described), (as_count("n", n),))


def _best(at: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    for i in range(sizes[0]):
        v[i] = 1.0 if at[i] > 0.0 else 0.0


def _described(scores: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    pass
