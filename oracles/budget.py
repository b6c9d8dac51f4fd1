"""Oracles for n bits of which at most, or exactly, `budget` are on; the score is the sum over those on.

MAP selects the `budget` largest scores, O(n), less those not above 0 where fewer are allowed. The k best:
sort, then for each size move elements of its best subset to the right, cheapest first, by one heap over all
sizes, O(n log n + k (n + log k)) a row (see `_subsets`). A bit of score -inf is in no feasible structure;
rows with fewer than `budget` others have none if exactly `budget` is asked. Ties: the lower index is on
first.
"""

from __future__ import annotations

import math
from itertools import chain, combinations

import numpy as np
import numpy.typing as npt

from oracles._arrays import Bools, as_count, as_scores, best_first, largest, largest_mask
from oracles._subsets import cheapest_exchanges
from oracles.bits import scores_of


def argmax(scores: npt.ArrayLike, budget: int, exact: bool) -> Bools:
    """The best bits of each row: scores [B, n] -> [B, n]. An infeasible row gets bits of score -inf."""
    array = as_scores("scores", scores, "B, n")
    chosen = largest_mask(array, as_count("budget", budget, 0, array.shape[1]))
    return chosen if exact else chosen & (array > 0)


def topk(scores: npt.ArrayLike, k: int, budget: int, exact: bool) -> tuple[Bools, Bools]:
    """The k best of each row, best first.

    Parameters
    ----------
    scores : [B, n]
    k : at least 1; may exceed the number of structures
    budget : 0..n
    exact : exactly `budget` ones, or at most

    Returns
    -------
    z : [B, k, n] bool; where invalid, the row's first vector again
    valid : [B, k] bool, the leading min(k, number of feasible structures); all False for an infeasible row
    """
    array, k = as_scores("scores", scores, "B, n"), as_count("k", k)
    batch, n = array.shape
    budget = as_count("budget", budget, 0, n)
    index = largest(array, n)
    ranked = np.take_along_axis(array, index, axis=1)
    finite = (array > -np.inf).sum(axis=1)
    z, count = np.zeros((batch, k, n), np.bool_), np.empty(batch, np.int64)
    cheapest_exchanges(ranked, index, finite, budget if exact else 0, budget, z, count)
    z, valid, _ = best_first(z, scores_of(z, array), count)
    return z, valid


def enumerate(n: int, budget: int, exact: bool) -> Bools:
    """Every structure, [cardinality, n]: smaller sizes first, a size in lexicographic order of its ones."""
    total = cardinality(n, budget, exact)
    subsets = chain.from_iterable(combinations(range(n), m) for m in _sizes(budget, exact))
    z = np.zeros((total, n), np.bool_)
    for row, subset in zip(z, subsets, strict=True):
        row[list(subset)] = True
    return z


def cardinality(n: int, budget: int, exact: bool) -> int:
    """C(n, budget), or the sum of C(n, m) for m up to `budget`."""
    n = as_count("n", n)
    return sum(math.comb(n, m) for m in _sizes(as_count("budget", budget, 0, n), exact))


def _sizes(budget: int, exact: bool) -> range:
    return range(budget if exact else 0, budget + 1)
