"""Oracles for the matchings of any graph: z says which edges are on, no two of which share a node; scores add up.

Graphs are ``edges`` [E, 2], pairs of numbers of nodes from 0 to ``nodes`` - 1, and their parts are the edges. A perfect
matching covers every node. MAP is Edmonds' blossom algorithm (1965), O(n^3), in NetworkX (Galil 1986). It is handed
whole numbers, which every row of floating-point scores is but for a power of two: with floats it may stop short of the
optimum. The k best come from Lawler's partition. -inf forbids an edge; where no perfect matching is left, MAP has every
edge on, so that it uses forbidden ones. Ties: NetworkX' order; what adds nothing is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import networkx
import numpy as np
import numpy.typing as npt

from oracles import partition
from oracles._arrays import Bools, Floats, Ints, as_count, as_scores
from oracles.bits import scores_of


def argmax(scores: npt.ArrayLike, edges: npt.ArrayLike, nodes: int, perfect: bool = False) -> Bools:
    """The best matching of each row: scores [B, E] -> [B, E]."""
    array, pairs = _canonical(scores, edges, nodes)
    none = np.zeros(array.shape[1], np.bool_)
    z = np.ones(array.shape, np.bool_)
    for b, row in zip(range(len(array)), array, strict=True):
        best = _best(row, _whole(row), pairs, nodes, perfect, none, none)
        if best is not None:
            z[b] = best
    return z


def topk(scores: npt.ArrayLike, edges: npt.ArrayLike, nodes: int, k: int, perfect: bool = False) -> tuple[Bools, Bools]:
    """The k best matchings of each row, best first.

    Parameters
    ----------
    scores : [B, E]
    edges : [E, 2]
    nodes : how many there are
    k : at least 1; may exceed the number of matchings
    perfect : whether every node has to be covered

    Returns
    -------
    z : [B, k, E] bool; where invalid, the row's first matching again
    valid : [B, k] bool, the leading min(k, number of feasible matchings); all False where there is none
    """
    array, pairs = _canonical(scores, edges, nodes)
    whole = [_whole(row) for row in array]

    def solve(on: Bools, off: Bools, row: Ints) -> tuple[Bools, Bools, Floats]:
        z, value = np.ones(on.shape, np.bool_), np.full(len(row), -np.inf)
        for i, b in zip(range(len(row)), row.tolist(), strict=True):
            best = _best(array[b], whole[b], pairs, nodes, perfect, on[i], off[i])
            if best is not None:
                z[i], value[i] = best, scores_of(best[None, None], array[b][None])[0, 0]
        return z, z, value

    batch, parts = array.shape
    z, valid, _ = partition.kbest(solve, batch, parts, k, antichain=perfect)
    return z, valid


def enumerate(edges: npt.ArrayLike, nodes: int, perfect: bool = False, limit: int | None = None) -> Bools:
    """Every matching, [cardinality, E], by the edges of node 0 (none first), then of node 1, and so on.

    Where there are more than ``limit``, just one more than those.
    """
    _, pairs = _canonical(np.zeros((0, len(np.asarray(edges)))), edges, nodes)
    found = list(islice(_every(pairs, nodes, perfect), None if limit is None else limit + 1))
    z = np.zeros((len(found), len(pairs)), np.bool_)
    for row, on in zip(z, found, strict=True):
        row[list(on)] = True
    return z


def cardinality(edges: npt.ArrayLike, nodes: int, perfect: bool = False) -> int:
    """How many matchings there are: counted node by node, for each set of later nodes that are covered already.

    The time is exponential in how many of those there are at once (the problem is #P-hard: Valiant 1979).
    """
    _, pairs = _canonical(np.zeros((0, len(np.asarray(edges)))), edges, nodes)
    later = _later(pairs, nodes)
    ways = {frozenset[int](): 1}
    for node in range(nodes):
        following: dict[frozenset[int], int] = {}
        for covered, count in ways.items():
            rest = covered - {node}
            options = [rest] if node in covered or not perfect else []
            if node not in covered:
                options += [rest | {other} for other, _ in later[node] if other not in covered]
            for option in options:
                following[option] = following.get(option, 0) + count
        ways = following
    return sum(ways.values())


def _canonical(scores: npt.ArrayLike, edges: npt.ArrayLike, nodes: int) -> tuple[Floats, list[tuple[int, int]]]:
    array, nodes = as_scores("scores", scores, "B, E"), as_count("nodes", nodes, 2)
    pairs = np.asarray(edges)
    if pairs.shape != (array.shape[1], 2) or pairs.min() < 0 or pairs.max() >= nodes:
        raise ValueError(
            f"edges has shape {pairs.shape}, expected [{array.shape[1]}, 2] with numbers from 0 to {nodes - 1}"
        )
    return array, [(u, v) for u, v in pairs.tolist()]


def _later(pairs: list[tuple[int, int]], nodes: int) -> list[list[tuple[int, int]]]:
    """For each node, the later nodes that it has an edge with, and the edge."""
    later: list[list[tuple[int, int]]] = [[] for _ in range(nodes)]
    for e, (u, v) in zip(range(len(pairs)), pairs, strict=True):
        later[min(u, v)].append((max(u, v), e))
    return later


def _every(pairs: list[tuple[int, int]], nodes: int, perfect: bool) -> Iterator[tuple[int, ...]]:
    """The edges of every matching: each node, in order, is left out or joined with a later one."""
    later = _later(pairs, nodes)
    waiting: list[tuple[int, frozenset[int], tuple[int, ...]]] = [(0, frozenset(), ())]
    while waiting:
        node, covered, on = waiting.pop()
        while node in covered:
            node += 1
        if node == nodes:
            yield on
            continue
        for other, e in reversed(later[node]):
            if other not in covered:
                waiting.append((node + 1, covered | {other}, (*on, e)))
        if not perfect:
            waiting.append((node + 1, covered, on))


def _whole(scores: Floats) -> list[int]:
    """The scores [E] times a power of two that makes whole numbers of them; 0 for -inf."""
    mantissa, exponent = np.frexp(np.where(np.isneginf(scores), 0.0, scores))
    digits = (mantissa * 2.0**53).astype(np.int64)
    low = exponent[digits != 0].min(initial=exponent.max())
    shifts = np.where(digits != 0, exponent - low, 0)
    return [d << s for d, s in zip(digits.tolist(), shifts.tolist(), strict=True)]


def _best(
    scores: Floats,
    whole: list[int],
    pairs: list[tuple[int, int]],
    nodes: int,
    perfect: bool,
    on: Bools,
    off: Bools,
) -> Bools | None:
    """The best matching [E] with all edges of ``on`` and none of ``off``; None where there is none."""
    z = on.copy()
    covered: set[int] = set()
    for e in np.flatnonzero(on).tolist():
        if scores[e] == -np.inf or not covered.isdisjoint(pairs[e]):
            return None
        covered.update(pairs[e])
    open_ = ~on & ~off & (scores > (-np.inf if perfect else 0.0))
    graph, index = networkx.Graph(), {}
    for e in np.flatnonzero(open_).tolist():
        if covered.isdisjoint(pairs[e]):
            index[frozenset(pairs[e])] = e
            graph.add_edge(*pairs[e], weight=whole[e])
    left = nodes - len(covered)
    if perfect and len(graph) < left:
        return None
    if index:
        found = networkx.max_weight_matching(graph, maxcardinality=perfect)
        if perfect and 2 * len(found) < left:
            return None
        z[[index[frozenset(pair)] for pair in found]] = True
    return z
