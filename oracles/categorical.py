"""Oracles for one choice among n: a structure is an index, its score is that index's score.

MAP is O(n) a row; the k best are O(n + k log k), by partition. Ties go to the lower index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from oracles._arrays import Bools, Ints, as_count, as_scores, largest, leading
from oracles.compiled import Compiled, address, carray


def argmax(scores: npt.ArrayLike) -> Ints:
    """The best index of each row: scores [B, n] -> [B]."""
    best: Ints = np.argmax(as_scores("scores", scores, "B, n"), axis=1)
    return best


def topk(scores: npt.ArrayLike, k: int) -> tuple[Ints, Bools]:
    """The k best indices of each row, best first.

    Parameters
    ----------
    scores : [B, n]
    k : at least 1; may exceed n

    Returns
    -------
    z : [B, k] int64; where invalid, the row's first index again
    valid : [B, k] bool, the leading min(k, number of scores above -inf)
    """
    array, k = as_scores("scores", scores, "B, n"), as_count("k", k)
    m = min(k, array.shape[1])
    order = largest(array, m)
    valid = leading((array > -np.inf).sum(axis=1), k)
    z = order[:, np.minimum(np.arange(k), m - 1)]
    return np.where(valid, z, order[:, :1]), valid


def enumerate(n: int) -> Ints:
    """Every index: [n]."""
    return np.arange(as_count("n", n), dtype=np.int64)


def cardinality(n: int) -> int:
    """How many indices there are: n."""
    return as_count("n", n)


def compiled(n: int) -> Compiled:
    """The oracle as C functions."""
    return Compiled(address(_best), address(_described), (as_count("n", n),))


def _best(at: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    n, label = sizes[0], carray(z, 1, np.int64)
    label[0] = 0
    for i in range(n):
        v[i] = 0.0
        if at[i] > at[label[0]]:
            label[0] = i
    v[label[0]] = 1.0


def _described(scores: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    label = carray(z, 1, np.int64)[0]
    for i in range(sizes[0]):
        v[i] = 1.0 if i == label else 0.0
