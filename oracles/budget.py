"""Oracles for n bits of which at most, or exactly, `budget` are on; the score is the sum over those on.

MAP selects the `budget` largest scores, O(n), less those not above 0 where fewer are allowed. The k best:
sort, then for each size move elements of its best subset to the right, cheapest first, by one heap over all
sizes, O(n log n + k (n + log k)) a row (see `_subsets`). A bit of score -inf is in no feasible structure;
rows with fewer than `budget` others have none if exactly `budget` is asked. Ties: the lower index is on
first. `budget` is a number, or one for each row, [B]; a space is then the union over the rows.
"""

from __future__ import annotations

import math
from itertools import chain, combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from oracles._arrays import Bools, Floats, Ints, as_count, as_scores, best_first, largest, largest_mask, leading
from oracles._jit import kernel
from oracles._subsets import cheapest_exchanges
from oracles.bits import scores_of
from oracles.compiled import Compiled, address, carray


def argmax(scores: npt.ArrayLike, budget: int | Ints, exact: bool) -> Bools:
    """The best bits of each row: scores [B, n] -> [B, n]. An infeasible row gets bits of score -inf."""
    array = as_scores("scores", scores, "B, n")
    budgets = _budgets(budget, array.shape[1], len(array))
    if (budgets == budgets[:1]).all():
        chosen = largest_mask(array, int(budgets.max(initial=0)))
    else:
        chosen, order = np.empty(array.shape, np.bool_), largest(array, array.shape[1])
        np.put_along_axis(chosen, order, leading(budgets, array.shape[1]), axis=1)
    return chosen if exact else chosen & (array > 0)


def topk(scores: npt.ArrayLike, k: int, budget: int | Ints, exact: bool) -> tuple[Bools, Bools]:
    """The k best of each row, best first.

    Parameters
    ----------
    scores : [B, n]
    k : at least 1; may exceed the number of structures
    budget : 0..n, or [B] of them
    exact : exactly `budget` ones, or at most

    Returns
    -------
    z : [B, k, n] bool; where invalid, the row's first vector again
    valid : [B, k] bool, the leading min(k, number of feasible structures); all False for an infeasible row
    """
    array, k = as_scores("scores", scores, "B, n"), as_count("k", k)
    batch, n = array.shape
    budgets = _budgets(budget, n, batch)
    index = largest(array, n)
    ranked = np.take_along_axis(array, index, axis=1)
    finite = (array > -np.inf).sum(axis=1)
    z, count = np.zeros((batch, k, n), np.bool_), np.empty(batch, np.int64)
    cheapest_exchanges(ranked, index, finite, budgets if exact else np.zeros_like(budgets), budgets, z, count)
    z, valid, _ = best_first(z, scores_of(z, array), count)
    return z, valid


def enumerate(n: int, budget: int | Ints, exact: bool) -> Bools:
    """Every structure, [cardinality, n]: smaller sizes first, a size in lexicographic order of its ones."""
    total = cardinality(n, budget, exact)
    subsets = chain.from_iterable(combinations(range(n), m) for m in _sizes(n, budget, exact))
    z = np.zeros((total, n), np.bool_)
    for row, subset in zip(z, subsets, strict=True):
        row[list(subset)] = True
    return z


def cardinality(n: int, budget: int | Ints, exact: bool) -> int:
    """C(n, budget), or the sum of C(n, m) for m up to `budget`."""
    n = as_count("n", n)
    return sum(math.comb(n, m) for m in _sizes(n, budget, exact))


def _sizes(n: int, budget: int | Ints, exact: bool) -> list[int]:
    """How many ones there may be."""
    budgets = _budgets(budget, n).tolist()
    return sorted(set(budgets)) if exact else list(range(max(budgets, default=-1) + 1))


def _budgets(budget: int | Ints, n: int, rows: int | None = None) -> Ints:
    """One budget a row, checked; without ``rows`` those that came."""
    array = np.asarray(budget)
    if array.ndim == 0:
        return np.full(1 if rows is None else rows, as_count("budget", budget, 0, n), np.int64)  # type: ignore[arg-type]
    if array.dtype.kind not in "iu" or array.ndim != 1 or len(array) != (len(array) if rows is None else rows):
        raise ValueError(f"budget has dtype {array.dtype} and shape {array.shape}, expected an integer or [B] of them")
    for value in (array.min(initial=0), array.max(initial=0)):
        as_count("budget", value, 0, n)
    return array.astype(np.int64)


def compiled(n: int, budget: int | None, exact: bool) -> Compiled:
    """The oracle as C functions. Without ``budget`` each row says in ``extra`` [n + 1] which counts are not -inf.

    The largest of them is its budget.
    """
    n = as_count("n", n)
    sizes = (n, -1 if budget is None else as_count("budget", budget, 0, n), int(exact))
    return Compiled(address(_best), address(_described), sizes)


def _best(at: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    n, budget, own = sizes[0], sizes[1], sizes[1] < 0
    if own:
        budget = n
        while budget > 0 and extra[budget] == -np.inf:
            budget -= 1
    _select(carray(at, n), budget, sizes[2] != 0, carray(v, n))
    if own:
        _count(carray(v, n), carray(extra, n + 1), more)


def _described(scores: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    if sizes[1] < 0:
        _count(carray(v, sizes[0]), carray(extra, sizes[0] + 1), more)


@kernel
def _count(v: Floats, extra: Floats, more: Any) -> None:
    """What ``extra`` says of the number of ones."""
    ones = 0
    for i in range(v.shape[0]):
        ones += v[i] > 0.0
    more[0] = extra[ones]
    more[1] = abs(extra[ones]) if extra[ones] > -np.inf else 0.0


@kernel
def _select(scores: Floats, budget: int, exact: bool, v: Floats) -> None:
    n, positive = scores.shape[0], 0
    for i in range(n):
        positive += scores[i] > 0.0
    if not exact and positive <= budget:
        for i in range(n):
            v[i] = 1.0 if scores[i] > 0.0 else 0.0
        return
    if budget == 0 or budget == n:
        v[:] = 1.0 if budget > 0 else 0.0
        return
    floor, above = _largest(scores.copy(), budget), 0
    for i in range(n):
        above += scores[i] > floor
    vacant = budget - above
    for i in range(n):
        level = scores[i] == floor and vacant > 0
        v[i] = 1.0 if scores[i] > floor or level else 0.0
        vacant -= level


@kernel
def _largest(x: Floats, m: int) -> float:
    """The m-th largest number in x, which is put in another order: O(n), for the median of three splits well."""
    low, high, at = 0, x.shape[0] - 1, m - 1
    while low < high:
        a, b, c = x[low], x[(low + high) // 2], x[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while x[i] > pivot:
                i += 1
            while x[j] < pivot:
                j -= 1
            if i <= j:
                x[i], x[j] = x[j], x[i]
                i += 1
                j -= 1
        if at <= j:
            high = j
        elif at >= i:
            low = i
        else:
            break
    found: float = x[at]
    return found
