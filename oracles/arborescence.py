"""Oracles for non-projective dependency trees: a head for each of n words, 0 the root, h > 0 word h - 1.

Every word leads to the root from head to head; scores[b, m, h] add up. What scores say of a word as its own head
(column m + 1) is never read. MAP is Chu-Liu-Edmonds' algorithm, O(n^2) a row, with a single child of the root too; the
k best come from Lawler's partition (Lawler 1972), at most k n further trees (see `_edmonds`); samples are exact
(`_walks`). -inf forbids an arc. Ties: the lower head on each path that the algorithm grows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from oracles import _threads, _walks
from oracles._arrays import Bools, Floats, Ints, as_count, as_scores, best_first, canonical, real
from oracles._edmonds import best_tree, best_trees, rank_trees
from oracles._jit import kernel
from oracles.compiled import Compiled, address, carray


def argmax(scores: npt.ArrayLike, multi_root: bool = True) -> Ints:
    """The heads of the best tree of each row: scores [B, n, n + 1] -> [B, n]; all -1 where there is none.

    Unless ``multi_root``, the root has one child.
    """
    array = _canonical(scores)
    batch, n, _ = array.shape
    heads = np.empty((batch, n), np.int64)
    _threads.by_rows(partial(best_trees, array, not multi_root, heads), batch, 8 * n * (n + 1))
    return heads


def topk(scores: npt.ArrayLike, k: int, multi_root: bool = True) -> tuple[Ints, Bools]:
    """The k best trees of each row, best first.

    Parameters
    ----------
    scores : [B, n, n + 1]
    k : at least 1; may exceed the number of trees
    multi_root : whether the root may have more than one child

    Returns
    -------
    heads : [B, k, n] int64; where invalid, the first tree again, or -1
    valid : [B, k] bool, the leading min(k, number of feasible trees); all False where there is none
    """
    array, k = _canonical(scores), as_count("k", k)
    batch, n, _ = array.shape
    heads, count = np.full((batch, k, n), -1, np.int64), np.empty(batch, np.int64)
    work = 8 * k * n * n * (n + 1)
    _threads.by_rows(partial(rank_trees, array, not multi_root, heads, count), batch, work)
    heads, valid, _ = best_first(heads, scores_of(heads, array), count)
    return heads, valid


def sample(scores: npt.ArrayLike, uniform: npt.ArrayLike, multi_root: bool = True) -> Ints:
    """Trees drawn with probability proportional to exp(score), exactly.

    Parameters
    ----------
    scores : [B, n, n + 1], of which each row has a tree
    uniform : [C, B, n], numbers drawn uniformly from [0, 1)
    multi_root : as in `topk`

    Returns
    -------
    heads : [C, B, n] int64
    """
    array, chance = _canonical(scores), canonical(real("uniform", uniform))
    batch, n, _ = array.shape
    if chance.ndim != 3 or chance.shape[1:] != (batch, n):
        raise ValueError(f"uniform has shape {chance.shape}, expected [C, {batch}, {n}]")
    heads = np.empty(chance.shape, np.int64)
    work = 8 * len(chance) * (n**4 // 12 + n * n)
    _threads.by_rows(partial(_walks.draw_trees, array, not multi_root, chance, heads), batch, work)
    return heads


def scores_of(heads: Ints, scores: Floats) -> Floats:
    """The score of each tree [B, k, n], all of whose heads are there: [B, k]."""
    total: Floats = np.take_along_axis(scores, np.moveaxis(heads, 1, 2), axis=2).sum(axis=1)
    return total


def enumerate(words: int, multi_root: bool = True) -> Ints:
    """Every tree, [cardinality, words], in lexicographic order of the heads."""
    words = as_count("words", words)
    table = np.empty((1, 0), np.int64)
    top = np.arange(words + 1)[None]  # where a walk from each ends by now
    for m in range(words):
        head = np.tile(np.arange(words + 1), len(table))
        table, top = np.repeat(table, words + 1, axis=0), np.repeat(top, words + 1, axis=0)
        into = top[np.arange(len(top)), head]
        kept = into != m + 1
        if not multi_root:
            kept &= (head > 0) | ~(table == 0).any(axis=1)
        table, top, into = np.column_stack([table, head])[kept], top[kept], into[kept]
        top = np.where(top == m + 1, into[:, None], top)
    return table


def cardinality(words: int, multi_root: bool = True) -> int:
    """Cayley's formula: (n + 1)^(n - 1) trees, n^(n - 1) with one child of the root."""
    words = as_count("words", words)
    count: int = (words + 1 if multi_root else words) ** (words - 1)
    return count


def compiled(words: int, multi_root: bool = True) -> Compiled:
    """MAP as C functions."""
    return Compiled(address(_best), address(_described), (as_count("words", words), int(not multi_root)))


def _canonical(scores: npt.ArrayLike) -> Floats:
    array = as_scores("scores", scores, "B, n, n + 1")
    if array.shape[2] != array.shape[1] + 1:
        raise ValueError(f"scores has shape {array.shape}, expected [B, n, n + 1]")
    return array


def _best(at: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    n = sizes[0]
    heads = carray(z, n, np.int64)
    best_tree(carray(at, (n, n + 1)), sizes[1] != 0, heads)
    _describe(heads, carray(v, (n, n + 1)))


def _described(scores: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    n = sizes[0]
    _describe(carray(z, n, np.int64), carray(v, (n, n + 1)))


@kernel
def _describe(heads: Ints, v: Floats) -> None:
    v[:] = 0.0
    for m in range(len(heads)):
        v[m, heads[m]] = 1.0
