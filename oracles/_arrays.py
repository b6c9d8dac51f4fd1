"""What every oracle does to its arrays: check and cast on entry, select, and put in order on the way out.

`as_scores` returns one canonical kind of array (float64, C-contiguous, aligned, writeable), so that each
Numba kernel is compiled once and not once a memory layout. `largest` selects in O(n) by partition but,
unlike `np.argpartition`, breaks ties by index. `best_first` is the last step of every `topk`.
"""

from __future__ import annotations

import operator
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

Bools: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)


def real(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """`value` as an array of real numbers, neither cast nor copied; ValueError for any other kind."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {array.dtype}, expected real numbers")
    return array


def canonical(array: npt.NDArray[Any]) -> Floats:
    """The one kind of array that kernels see. A read-only array would be a type of its own to Numba."""
    return np.require(array, np.float64, ["C", "A", "W"])


def as_scores(name: str, value: npt.ArrayLike, axes: str) -> Floats:
    """Checked and cast scores. `axes` names the dimensions, batch first, as in "B, T, S"; only B may be 0."""
    array = real(name, value)
    if array.ndim != axes.count(",") + 1 or 0 in array.shape[1:]:
        raise ValueError(f"{name} has shape {array.shape}, expected [{axes}] with only B allowed to be 0")
    scores = canonical(array)
    refuse_nan(name, scores)
    return scores


def refuse_nan(name: str, scores: Floats) -> None:
    """ValueError for NaN and +inf: no comparison, so no oracle, gives them a meaning."""
    peak = scores.max(initial=-np.inf)  # NaN wins against everything
    if not peak < np.inf:
        raise ValueError(f"{name} contains {peak}, expected finite numbers, or -inf to forbid a part")


def as_count(name: str, value: int, low: int = 1, high: int | None = None) -> int:
    """`value` as a Python int, or a ValueError where it is outside low..high."""
    try:
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}, expected an integer") from None
    if count < low or (high is not None and count > high):
        expected = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} is {count}, expected {expected}")
    return count


def largest_mask(scores: Floats, m: int) -> Bools:
    """True at the m largest of each row [B, n]; among equals the lower index wins."""
    n = scores.shape[1]
    if m == 0 or m == n:
        return np.full(scores.shape, m == n)
    floor = np.partition(scores, n - m, axis=1)[:, n - m, None]
    above, level = scores > floor, scores == floor
    vacant = m - above.sum(axis=1, keepdims=True)
    mask: Bools = above | (level & (np.cumsum(level, axis=1) <= vacant))
    return mask


def largest(scores: Floats, m: int) -> Ints:
    """Indices [B, m] of the m largest of each row [B, n], in decreasing order, ties by index."""
    index = np.nonzero(largest_mask(scores, m))[1].reshape(len(scores), m)
    order = np.argsort(-np.take_along_axis(scores, index, axis=1), axis=1, kind="stable")
    return np.take_along_axis(index, order, axis=1)


def leading(count: Ints, k: int) -> Bools:
    """The mask [B, k] with `count[b]` leading True."""
    return np.arange(k) < count[:, None]


def best_first(found: npt.NDArray[Scalar], scores: Floats, count: Ints) -> tuple[npt.NDArray[Scalar], Bools, Floats]:
    """Order [B, k, *event] by `scores` [B, k], stably; past `count` repeat the row's best.

    Returns the structures, the mask of those that exist, and their scores (-inf past `count`).
    """
    valid = leading(count, scores.shape[1])
    scores = np.where(valid, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")
    order = np.where(valid, order, order[:, :1])
    rows = np.arange(len(scores))[:, None]
    return found[rows, order], valid, np.where(valid, scores[rows, order], -np.inf)
