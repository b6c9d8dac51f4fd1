"""Oracles for bipartite matchings: a structure gives each row a column of its own, or -1; scores add up.

Full: min(rows, cols) pairs must be matched. Partial: any matching, the empty one included. MAP is SciPy's
assignment solver (Crouse 2016, shortest augmenting paths), O(m^2 M) for m <= M; the k best come from
Murty's ranking (Murty 1968), at most k m further assignments a matrix. Either way the shorter side are the
*agents*, each of which takes one of the *items*; in a partial matching every agent also has a private dummy
item of score 0, so that each matching is exactly one assignment. -inf forbids a pair. Ties: SciPy's order,
then that of the agents' items.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from oracles._arrays import Bools, Floats, Ints, as_count, as_scores, best_first


def argmax(scores: npt.ArrayLike, partial: bool = False) -> Ints:
    """The best matching of each matrix: scores [B, r, c] -> the column of each row, [B, r].

    -1 for an unmatched row, and in all rows where no matching is feasible.
    """
    array = as_scores("scores", scores, "B, r, c")
    profit = _profit(array, partial)
    items = np.full(profit.shape[:2], -1, np.int64)
    for matrix, row in zip(profit, items, strict=True):
        best = _assign(matrix)
        if best is not None:
            row[:] = best
    return _columns(items, *array.shape[1:])


def topk(scores: npt.ArrayLike, k: int, partial: bool = False) -> tuple[Ints, Bools]:
    """The k best matchings of each matrix, best first.

    Parameters
    ----------
    scores : [B, r, c]
    k : at least 1; may exceed the number of matchings
    partial : whether any pairs may be left out

    Returns
    -------
    z : [B, k, r] int64, as in `argmax`; where invalid, the first matching again
    valid : [B, k] bool, the leading min(k, number of feasible matchings); all False where there is none
    """
    array, k = as_scores("scores", scores, "B, r, c"), as_count("k", k)
    profit = _profit(array, partial)
    batch, agents, _ = profit.shape
    items, value = np.full((batch, k, agents), -1, np.int64), np.full((batch, k), -np.inf)
    count = np.zeros(batch, np.int64)
    for b in range(batch):
        ranking = _murty(profit[b], k)
        count[b] = len(ranking)
        for j in range(len(ranking)):
            value[b, j], items[b, j] = ranking[j]
    items, valid, _ = best_first(items, value, count)
    return _columns(items, *array.shape[1:]), valid


def enumerate(rows: int, cols: int, partial: bool = False) -> Ints:
    """Every matching, [cardinality, rows], in lexicographic order."""
    rows, cols = as_count("rows", rows), as_count("cols", cols)
    spare = rows if partial else max(rows - cols, 0)  # how many rows may go unmatched
    table = np.empty((1, 0), np.int64)
    for _ in range(rows):
        column = np.tile(np.arange(-1, cols), len(table))
        table = np.repeat(table, cols + 1, axis=0)
        taken = (table == column[:, None]).any(axis=1) & (column >= 0)
        table = np.column_stack([table, column])[~taken]
        table = table[(table < 0).sum(axis=1) <= spare]
    return table


def cardinality(rows: int, cols: int, partial: bool = False) -> int:
    """How many matchings there are: of min(rows, cols) pairs, or of any number of pairs."""
    rows, cols = as_count("rows", rows), as_count("cols", cols)
    full = min(rows, cols)
    sizes = range(0 if partial else full, full + 1)
    return sum(math.comb(rows, m) * math.perm(cols, m) for m in sizes)


def _profit(scores: Floats, partial: bool) -> Floats:
    """Scores [B, agents, items] with agents <= items, dummies included, of which every agent takes one."""
    batch, rows, cols = scores.shape
    profit = scores if rows <= cols else scores.transpose(0, 2, 1)
    if not partial:
        return profit
    agents = min(rows, cols)
    dummies = np.where(np.eye(agents, dtype=np.bool_), 0.0, -np.inf)
    return np.concatenate([profit, np.broadcast_to(dummies, (batch, agents, agents))], axis=2)


def _columns(items: Ints, rows: int, cols: int) -> Ints:
    """From the item of each agent, [..., agents], to the column of each row, [..., rows]."""
    if rows <= cols:
        return np.where(items < cols, items, -1)
    # Agents are columns, items rows. What is no row goes to a last place, which -1 means too, to be cut off.
    columns = np.full((*items.shape[:-1], rows + 1), -1, np.int64)
    places, taker = np.where(items < rows, items, -1), np.broadcast_to(np.arange(cols), items.shape)
    np.put_along_axis(columns, places, taker, axis=-1)
    return columns[..., :rows]


def _assign(profit: Floats) -> Ints | None:
    """The best item of each agent, or None where some agent can have none."""
    try:
        items: Ints = linear_sum_assignment(profit, maximize=True)[1]
    except ValueError:
        return None
    return items


def _murty(profit: Floats, k: int) -> list[tuple[float, tuple[int, ...]]]:
    """The k best assignments of `profit` [agents, items] and their scores.

    A node of the heap is the best assignment of one cell of the space: agents before `first` have the items
    that they have there, agent `first` must not have those in `banned`, the others are free. Popping it
    splits the rest of its cell: child i keeps the items of the agents before i and denies agent i its own.
    Cells are disjoint, so nothing comes twice.
    """
    everyone = np.arange(len(profit))
    heap: list[tuple[float, tuple[int, ...], int, list[int]]] = []

    def offer(items: Ints, first: int, banned: list[int]) -> None:
        score = float(profit[everyone, items].sum())
        heapq.heappush(heap, (-score, tuple(items.tolist()), first, banned))

    best = _assign(profit)
    if best is not None:
        offer(best, 0, [])
    ranking: list[tuple[float, tuple[int, ...]]] = []
    while heap:
        cost, items, first, banned = heapq.heappop(heap)
        ranking.append((-cost, items))
        if len(ranking) == k:
            break
        vacant = np.ones(profit.shape[1], np.bool_)
        vacant[list(items[:first])] = False
        for i in range(first, len(profit)):
            allowed = profit[i].copy()
            allowed[[*banned, items[i]]] = -np.inf
            free = np.flatnonzero(vacant)
            rest = profit[i:, free]
            rest[0] = allowed[free]
            found = _assign(rest)
            if found is not None:
                offer(np.concatenate([items[:i], free[found]]).astype(np.int64), i, [*banned, items[i]])
            vacant[items[i]] = False
            banned = []
    return ranking
