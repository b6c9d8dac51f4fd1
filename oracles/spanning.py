"""Oracles for the spanning trees of a connected graph: z says which edges are on; scores add up.

Graphs are ``edges`` [E, 2], pairs of numbers of nodes from 0 to ``nodes`` - 1, and their parts are the edges. MAP is
Kruskal's algorithm, O(E log E) a row. The k best come from Lawler's partition, in which the best tree of each piece is
one exchange away (Gabow 1977): O(k n E). Counts are the matrix-tree theorem's, in whole numbers; samples are exact
(see `arborescence`: a tree is one whose nodes all lead to node 0). -inf forbids an edge; where the others do not
connect the graph, MAP has every edge on, so that it uses forbidden ones. Ties: the lower index.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from oracles import _threads, arborescence
from oracles._arrays import Bools, Floats, Ints, as_count, as_scores, best_first
from oracles._kruskal import are_trees, best_trees, kruskal, rank_trees
from oracles.bits import scores_of
from oracles.compiled import Compiled, address, carray


def argmax(scores: npt.ArrayLike, edges: npt.ArrayLike, nodes: int) -> Bools:
    """The best spanning tree of each row: scores [B, E] -> [B, E]."""
    array, pairs, nodes = _canonical(scores, edges, nodes)
    z = np.empty(array.shape, np.bool_)
    _threads.by_rows(partial(best_trees, array, pairs, nodes, z), len(array), 32 * array.shape[1])
    return z


def topk(scores: npt.ArrayLike, edges: npt.ArrayLike, nodes: int, k: int) -> tuple[Bools, Bools]:
    """The k best spanning trees of each row, best first.

    Parameters
    ----------
    scores : [B, E]
    edges : [E, 2], of a connected graph
    nodes : how many there are
    k : at least 1; may exceed the number of trees

    Returns
    -------
    z : [B, k, E] bool; where invalid, the row's first tree again
    valid : [B, k] bool, the leading min(k, number of feasible trees); all False where there is none
    """
    array, pairs, nodes = _canonical(scores, edges, nodes)
    batch, size = array.shape
    z, count = np.ones((batch, as_count("k", k), size), np.bool_), np.empty(batch, np.int64)
    _threads.by_rows(partial(rank_trees, array, pairs, nodes, z, count), batch, 4 * k * nodes * size)
    z, valid, _ = best_first(z, scores_of(z, array), count)
    return z, valid


def sample(scores: npt.ArrayLike, edges: npt.ArrayLike, nodes: int, uniform: npt.ArrayLike) -> Bools:
    """Trees drawn with probability proportional to exp(score), exactly.

    Parameters
    ----------
    scores : [B, E], of which each row has a tree
    edges, nodes : as in `topk`
    uniform : [C, B, nodes - 1], numbers drawn uniformly from [0, 1)

    Returns
    -------
    z : [C, B, E] bool
    """
    array, pairs, nodes = _canonical(scores, edges, nodes)
    table = heads_table(pairs, nodes)
    none = np.full((len(array), 1), -np.inf)
    heads = arborescence.sample(np.concatenate([array, none], axis=1)[:, table], uniform)
    z = np.zeros((*heads.shape[:2], array.shape[1]), np.bool_)
    np.put_along_axis(z, table[np.arange(nodes - 1), heads], True, axis=2)
    return z


def heads_table(edges: Ints, nodes: int) -> Ints:
    """The edge from node m + 1 to node h at [m, h], [nodes - 1, nodes]; E for none."""
    table = np.full((nodes, nodes), len(edges), np.int64)
    table[edges[:, 0], edges[:, 1]] = table[edges[:, 1], edges[:, 0]] = np.arange(len(edges))
    return table[1:]


def enumerate(edges: npt.ArrayLike, nodes: int) -> Bools:
    """Every spanning tree, [cardinality, E]."""
    every: Bools = topk(np.zeros((1, len(np.asarray(edges)))), edges, nodes, cardinality(edges, nodes))[0][0]
    return every


def cardinality(edges: npt.ArrayLike, nodes: int) -> int:
    """How many spanning trees there are: a minor of the Laplacian (Kirchhoff 1847), by Bareiss' elimination."""
    size = nodes - 1
    laplacian = [[0] * nodes for _ in range(nodes)]
    for u, v in np.asarray(edges).tolist():
        laplacian[u][u] += 1
        laplacian[v][v] += 1
        laplacian[u][v] -= 1
        laplacian[v][u] -= 1
    pivot = 1
    for i in range(size):  # the minor is positive definite: no pivot is 0 where the graph is connected
        row = laplacian[i]
        for j in range(i + 1, size):
            below = laplacian[j]
            first = below[i]
            for h in range(i, size):
                below[h] = (below[h] * row[i] - first * row[h]) // pivot
        pivot = row[i]
        if pivot == 0:
            return 0
    return pivot


def contains(z: npt.ArrayLike, edges: npt.ArrayLike, nodes: int) -> Bools:
    """Whether the edges that are on in z [N, E] make a spanning tree: [N]."""
    on = np.ascontiguousarray(z, np.bool_)
    found = np.empty(len(on), np.bool_)
    are_trees(on, np.require(edges, np.int64, ["C", "A", "W"]), nodes, found)
    return found


def compiled(edges: npt.ArrayLike, nodes: int) -> Compiled:
    """MAP as C functions."""
    pairs = np.asarray(edges)
    return Compiled(
        address(_best), address(_described), (as_count("nodes", nodes), len(pairs), *pairs.ravel().tolist())
    )


def _canonical(scores: npt.ArrayLike, edges: npt.ArrayLike, nodes: int) -> tuple[Floats, Ints, int]:
    array, nodes = as_scores("scores", scores, "B, E"), as_count("nodes", nodes, 2)
    pairs = np.require(edges, np.int64, ["C", "A", "W"])
    if pairs.shape != (array.shape[1], 2) or pairs.min() < 0 or pairs.max() >= nodes:
        raise ValueError(
            f"edges has shape {pairs.shape}, expected [{array.shape[1]}, 2] with numbers from 0 to {nodes - 1}"
        )
    return array, pairs, nodes


def _best(at: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    nodes, size = sizes[0], sizes[1]
    edges = carray(sizes, 2 + 2 * size)[2:].reshape((size, 2))
    kruskal(carray(at, size), edges, np.empty(nodes, np.int64), carray(v, size))


def _described(scores: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    pass
