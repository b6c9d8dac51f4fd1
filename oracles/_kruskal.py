"""Numba kernels for the best spanning trees of a graph, and for what a spanning tree is.

Graphs are edges [E, 2] of nodes from 0 up. Components are kept by union-find: each node's ``parent``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles._arrays import Bools, Floats, Ints
from oracles._edmonds import longer
from oracles._jit import kernel
from oracles._subsets import _pop, _push


@kernel
def _find(parent: Ints, node: int) -> int:
    """The root of a node's component; the way there becomes shorter."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@kernel
def kruskal(scores: Floats, edges: Ints, parent: Ints, z: Any) -> bool:
    """The best tree [E]; every edge, and False, where there is none. ``parent`` [nodes] is scratch."""
    left = len(parent) - 1
    parent[:] = np.arange(len(parent))
    z[:] = 0
    for e in np.argsort(-scores, kind="mergesort"):
        if scores[e] == -np.inf or left == 0:
            break
        u, v = _find(parent, edges[e, 0]), _find(parent, edges[e, 1])
        if u != v:
            parent[u] = v
            z[e] = 1
            left -= 1
    if left > 0:
        z[:] = 1
    return left == 0


@kernel
def best_trees(scores: Floats, edges: Ints, nodes: int, z: Bools, start: int, stop: int) -> None:
    parent = np.empty(nodes, np.int64)
    for b in range(start, stop):
        kruskal(scores[b], edges, parent, z[b])


@kernel
def _exchange(scores: Floats, edges: Ints, tree: Bools, out: Bools, without: int, parent: Ints) -> int:
    """The best edge that is not ``out`` and takes the place of one in a tree; -1 for none."""
    parent[:] = np.arange(len(parent))
    for e in range(len(edges)):
        if tree[e] and e != without:
            parent[_find(parent, edges[e, 0])] = _find(parent, edges[e, 1])
    best = -1
    for e in range(len(edges)):
        better = not tree[e] and not out[e] and scores[e] > (scores[best] if best >= 0 else -np.inf)
        if better and _find(parent, edges[e, 0]) != _find(parent, edges[e, 1]):
            best = e
    return best


@kernel
def rank_trees(scores: Floats, edges: Ints, nodes: int, z: Bools, count: Ints, start: int, stop: int) -> None:
    for b in range(start, stop):
        count[b] = _rank(scores[b], edges, nodes, z[b])


@kernel
def _rank(scores: Floats, edges: Ints, nodes: int, z: Bools) -> int:
    """Lawler's partition. A node is the best tree of those with all edges of ``kept`` and none of ``out``.

    The rest of its cell falls into those that have its free edges up to one, and not that one.
    """
    k, size = z.shape
    room = nodes
    tree, kept = np.empty((room, size), np.bool_), np.zeros((room, size), np.bool_)
    out, cost, heap = np.zeros((room, size), np.bool_), np.empty(room), np.empty(room, np.int64)
    parent, found = np.empty(nodes, np.int64), 0
    if not kruskal(scores, edges, parent, tree[0]):
        return 0
    cost[0] = -_sum(scores, tree[0])
    made, waiting = 1, _push(heap, 0, cost, 0)
    while waiting > 0:
        node = _pop(heap, waiting, cost)
        waiting -= 1
        z[found] = tree[node]
        found += 1
        if found == k:
            break
        if made + nodes > room:
            room = 2 * (made + nodes)
            tree, kept, out = longer(tree, room), longer(kept, room), longer(out, room)
            cost, heap = longer(cost, room), longer(heap, room)
        for e in range(size):
            if tree[node, e] and not kept[node, e]:
                into = _exchange(scores, edges, tree[node], out[node], e, parent)
                if into >= 0:
                    tree[made], kept[made], out[made] = tree[node], kept[node], out[node]
                    tree[made, e], tree[made, into], out[made, e] = False, True, True
                    cost[made] = -_sum(scores, tree[made])
                    waiting = _push(heap, waiting, cost, made)
                    made += 1
                kept[node, e] = True
    return found


@kernel
def _sum(scores: Floats, z: Bools) -> float:
    total = 0.0
    for e in range(len(z)):
        total += scores[e] if z[e] else 0.0
    return total


@kernel
def are_trees(z: Bools, edges: Ints, nodes: int, found: Bools) -> None:
    parent = np.empty(nodes, np.int64)
    for i in range(len(z)):
        parent[:] = np.arange(nodes)
        joined, on = 0, 0
        for e in range(len(edges)):
            if z[i, e]:
                u, v = _find(parent, edges[e, 0]), _find(parent, edges[e, 1])
                parent[u] = v
                joined += u != v
                on += 1
        found[i] = joined == on == nodes - 1
