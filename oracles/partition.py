"""The k best structures of any space from nothing but its MAP oracle: Lawler's partition, batched over rows.

After a structure is found, the rest of its space is split into disjoint subproblems, each of which forces
some parts on and forbids others; the best of each goes on a heap (Lawler 1972). A row's k best take at most
1 + (k - 1) * parts subproblems, solved in k rounds: one structure a row a round, and all subproblems of all
rows in one call of the oracle (cut in pieces only to bound memory). `restrict` turns a subproblem into
scores that a plain MAP oracle understands. Ties: the vertex whose bytes come first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from oracles._arrays import Bools, Floats, Ints, as_count, best_first

Solve: TypeAlias = Callable[[Bools, Bools, Ints], tuple[npt.NDArray[Any], Bools, Floats]]
CHUNK = 1 << 22  # parts of subproblems in one call of the oracle: 32 MiB of float64 scores


class _Node(NamedTuple):
    """The best structure of a subproblem. `cost` and `key`, which no two share, order the heap."""

    cost: float
    key: bytes
    on: Bools
    off: Bools
    vertex: Bools
    answer: npt.NDArray[Any]


def kbest(
    solve: Solve, batch: int, parts: int, k: int, antichain: bool = False
) -> tuple[npt.NDArray[Any], Bools, Floats]:
    """The k best structures of each row, best first.

    Parameters
    ----------
    solve : (on [N, parts] bool, off [N, parts] bool, row [N] int64)
        -> (answers [N, *event], vertices [N, parts] bool, scores [N] float64):
        the best structure of batch row `row[i]` that has every part in `on[i]` and none in `off[i]`, or
        score -inf where there is none. An answer that breaks `on` or `off` counts as none.
    batch, parts : how many rows; how many parts a structure has
    k : at least 1; may exceed the number of structures
    antichain : no vertex contains another; saves the subproblems that force a part on that was off

    Returns
    -------
    answers : [batch, k, *event]; where invalid, the row's first structure again
    valid : [batch, k] bool, the leading min(k, number of feasible structures)
    scores : [batch, k] float64, as `solve` gave them, -inf where invalid
    """
    batch, parts, k = as_count("batch", batch, 0), as_count("parts", parts), as_count("k", k)
    heaps: list[list[_Node]] = [[] for _ in range(batch)]
    on, off, row = np.zeros((batch, parts), np.bool_), np.zeros((batch, parts), np.bool_), np.arange(batch)
    answers, vertices, scores = _answer(solve, on, off, row)
    for b in range(batch):
        own = slice(b, b + 1)
        _offer(heaps[b], k, on[own], off[own], vertices[own], scores[own], answers[own])

    found = np.repeat(answers[:, None], k, axis=1)
    value, count = np.full((batch, k), -np.inf), np.zeros(batch, np.int64)
    for rank in range(k):
        row = np.array([b for b in range(batch) if heaps[b]], np.int64)
        popped = [heapq.heappop(heaps[b]) for b in row]
        if not popped:
            break
        for j, node in zip(row, popped, strict=True):
            found[j, rank], value[j, rank], count[j] = node.answer, -node.cost, rank + 1
        if rank + 1 == k:
            break
        for parent, on, off in _children(popped, antichain):
            answers, vertices, scores = _answer(solve, on, off, row[parent])
            edges = np.searchsorted(parent, np.arange(len(popped) + 1))
            for j in np.unique(parent):
                own = slice(edges[j], edges[j + 1])
                heap = heaps[row[j]]
                _offer(heap, k - rank - 1, on[own], off[own], vertices[own], scores[own], answers[own])
    return best_first(found, value, count)


def enumerate(solve: Solve, parts: int, limit: int, antichain: bool = False) -> npt.NDArray[Any]:
    """Every structure of the space, [|Z|, *event]; where there are more than `limit`, just more than those.

    Order does not matter here, so a whole generation of the partition is solved at once. Parameters are
    those of `kbest`; `solve` is asked about row 0 alone.
    """
    on = off = np.zeros((1, parts), np.bool_)
    found: list[npt.NDArray[Any]] = []
    pieces: Iterable[tuple[Ints, Bools, Bools]] = [(np.zeros(1, np.int64), on, off)]
    count = 0
    while True:
        generation: list[_Node] = []
        for _, on, off in pieces:
            answers, vertices, scores = _answer(solve, on, off, np.zeros(len(on), np.int64))
            there = np.flatnonzero(scores > -np.inf)
            generation += [_Node(0.0, b"", on[i], off[i], vertices[i], answers[i]) for i in there]
            if count + len(generation) > limit:
                break
        if not generation:
            return np.concatenate(found) if found else answers[:0]
        found.append(np.stack([node.answer for node in generation]))
        count += len(generation)
        if count > limit:
            return np.concatenate(found)
        pieces = _children(generation, antichain)


def restrict(scores: Floats, extra: tuple[Floats, ...], on: Bools, off: Bools) -> tuple[Floats, tuple[Floats, ...]]:
    """Scores whose best structure solves the subproblem, where it has a solution.

    Each row is multiplied by a power of two, which rounds nothing, so that the finite scores and extra
    scores together have absolute sum <= 1: then + 4 on a forced part outweighs all else. -inf on the
    forbidden ones.

    Parameters
    ----------
    scores : [N, *shape]
    extra : arrays [N, ...], scaled along with the scores
    on, off : [N, parts], the parts being those of `shape` in C order
    """
    rows = len(scores)
    flat = np.concatenate([np.reshape(x, (rows, x[0].size if rows else 0)) for x in (scores, *extra)], axis=1)
    size = np.where(np.isfinite(flat), np.abs(flat), 0.0)
    # In two steps, as the sum itself might overflow.
    peak = np.frexp(size.max(axis=1, initial=0.0))[1]
    exponent = peak + np.frexp(np.ldexp(size, -peak[:, None]).sum(axis=1))[1]

    def scaled(x: Floats) -> Floats:
        result: Floats = np.ldexp(x, -exponent.reshape(-1, *[1] * (x.ndim - 1)))
        return result

    on, off = on.reshape(scores.shape), off.reshape(scores.shape)
    forced = scaled(scores) + 4.0 * on
    return np.where(off, -np.inf, forced), tuple(scaled(x) for x in extra)


def _answer(solve: Solve, on: Bools, off: Bools, row: Ints) -> tuple[npt.NDArray[Any], Bools, Floats]:
    """What `solve` says, with score -inf for what is outside its subproblem: so nothing can come twice."""
    answers, vertices, scores = solve(on, off, row)
    outside = ((on & ~vertices) | (off & vertices)).any(axis=1)
    accepted: Floats = np.where(outside, -np.inf, scores)
    return answers, vertices, accepted


def _children(popped: list[_Node], antichain: bool) -> Iterator[tuple[Ints, Bools, Bools]]:
    """Pieces (parent [N], on [N, parts], off [N, parts]) of the children of all nodes popped, in their order.

    A child for each part the parent's subproblem left free: it agrees with the parent's structure on the
    free parts before and differs on this one. In an antichain only free parts that are on count: whatever
    agrees with a structure on all of its parts that are on is that structure.
    """
    vertex = np.stack([node.vertex for node in popped])
    forced, forbidden = np.stack([node.on for node in popped]), np.stack([node.off for node in popped])
    free = ~forced & ~forbidden
    if antichain:
        free &= vertex
    parents, parts = np.nonzero(free)
    length = max(1, CHUNK // vertex.shape[1])
    for start in range(0, len(parents), length):
        parent, part = parents[start : start + length], parts[start : start + length]
        a, each = vertex[parent], np.arange(len(parent))
        kept = free[parent] & (np.arange(vertex.shape[1]) < part[:, None])
        on, off = forced[parent] | (kept & a), forbidden[parent] | (kept & ~a)
        off[each, part], on[each, part] = a[each, part], ~a[each, part]
        yield parent, on, off


def _offer(
    heap: list[_Node],
    wanted: int,
    on: Bools,
    off: Bools,
    vertices: Bools,
    scores: Floats,
    answers: npt.NDArray[Any],
) -> None:
    """Push onto one row's heap what can still be among the `wanted` structures that it has to give."""
    worthy = scores > -np.inf
    if len(scores) > wanted:
        worthy &= scores >= np.partition(scores, -wanted)[-wanted]  # ties stay: the key decides among them
    for i in np.flatnonzero(worthy):
        # Copies: a view would keep the whole piece alive.
        copies = (x[i].copy() for x in (on, off, vertices, answers))
        heapq.heappush(heap, _Node(-float(scores[i]), vertices[i].tobytes(), *copies))
    if len(heap) > 2 * wanted + 64:
        heap[:] = heapq.nsmallest(wanted, heap)  # sorted, thus a heap
