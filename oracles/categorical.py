"""Oracles for one choice among n: a structure is an index, its score is that index's score.

MAP is O(n) a row; the k best are O(n + k log k), by partition. Ties go to the lower index.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oracles._arrays import Bools, Ints, as_count, as_scores, largest, leading


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
