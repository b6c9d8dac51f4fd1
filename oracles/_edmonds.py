"""Numba kernels for the best arborescences of dense graphs: Chu-Liu-Edmonds, and Lawler's partition over it.

Words 1..n each take a head among 0, the root, and the other words. A path is grown from head to head by the best arc of
each; where it meets itself the cycle becomes one node, whose arcs are worth what they add to the cycle (Edmonds 1967;
the order is Gabow, Galil, Spencer and Tarjan's 1986), O(n^2) in all.

A single child of the root: arcs are compared by (how many come from the root, score), fewer first. Pairs like numbers
can be added and compared, which is all that the algorithm does, so that its answer is exact without a penalty; the best
tree has one such arc, or none has.
"""

from __future__ import annotations

import numpy as np

from oracles._arrays import Floats, Ints
from oracles._jit import kernel
from oracles._subsets import _pop, _push


@kernel
def best_tree(scores: Floats, single: bool, heads: Ints) -> bool:
    """The best heads [n] by scores [n, n + 1]; all -1, and False, where there is no tree. Ties: the lower head."""
    n = scores.shape[0]
    # rows are nodes: the root, the words, and cycles that became one; columns are heads
    value, word = np.empty((2 * n, n + 1)), np.empty((2 * n, n + 1), np.int64)
    roots = np.zeros((2 * n, n + 1), np.int64)
    chosen, parent = np.zeros(2 * n, np.int64), np.full(2 * n, -1, np.int64)
    path, place = np.empty(2 * n, np.int64), np.full(2 * n, -1, np.int64)
    done, within = np.zeros(2 * n, np.bool_), np.arange(n + 1)
    done[0] = True
    for m in range(1, n + 1):
        for h in range(n + 1):
            value[m, h], word[m, h] = scores[m - 1, h], m
        roots[m, 0] = single
    nodes = n + 1
    for start in range(1, n + 1):
        if done[within[start]]:
            continue
        path[0], place[within[start]], length = within[start], 0, 1
        while True:
            node, h = path[length - 1], -1
            for g in range(n + 1):
                if within[g] != node and value[node, g] > -np.inf:
                    fewer = h < 0 or roots[node, g] < roots[node, h]
                    if fewer or (roots[node, g] == roots[node, h] and value[node, g] > value[node, h]):
                        h = g
            if h < 0:
                heads[:] = -1
                return False
            chosen[node] = h
            before = within[h]
            if done[before]:
                break
            if place[before] < 0:
                path[length], place[before] = before, length
                length += 1
                continue
            value[nodes] = -np.inf
            first = place[before]
            for i in range(first, length):
                _absorb(path[i], nodes, chosen, value, roots, word)
                parent[path[i]] = nodes
            for g in range(1, n + 1):
                within[g] = nodes if parent[within[g]] == nodes else within[g]
            path[first], place[nodes], length = nodes, first, first + 1
            nodes += 1
        for i in range(length):
            done[path[i]] = True
    # a node's arc enters one of its words: there it takes the place of the arc that closed the cycle
    replaced = np.zeros(nodes, np.bool_)
    for node in range(nodes - 1, 0, -1):
        if not replaced[node]:
            m = word[node, chosen[node]]
            heads[m - 1] = chosen[node]
            while m != node:
                replaced[m] = True
                m = parent[m]
    if single:
        count = 0
        for m in range(n):
            count += heads[m] == 0
        if count > 1:
            heads[:] = -1
            return False
    return True


@kernel
def _absorb(node: int, into: int, chosen: Ints, value: Floats, roots: Ints, word: Ints) -> None:
    """Offer the arcs of a node on a cycle, less the one that it has there, to the node that stands for the cycle."""
    h = chosen[node]
    own, count = value[node, h], roots[node, h]
    for g in range(value.shape[1]):
        if value[node, g] > -np.inf:
            gain, more = value[node, g] - own, roots[node, g] - count
            none = value[into, g] == -np.inf
            if none or more < roots[into, g] or (more == roots[into, g] and gain > value[into, g]):
                value[into, g], roots[into, g], word[into, g] = gain, more, word[node, g]


@kernel
def best_trees(scores: Floats, single: bool, out: Ints, start: int, stop: int) -> None:
    """The best heads out[b] [n] of each row."""
    for b in range(start, stop):
        best_tree(scores[b], single, out[b])


@kernel
def rank_trees(scores: Floats, single: bool, out: Ints, count: Ints, start: int, stop: int) -> None:
    """The k best heads out[b] [k, n] of each row, and how many there are."""
    for b in range(start, stop):
        count[b] = _rank(scores[b], single, out[b])


@kernel
def _rank(scores: Floats, single: bool, out: Ints) -> int:
    """Lawler's partition. A node is the best tree of one cell of the space.

    In the cell, words before ``first`` have the heads that they have there, the word ``first`` none of those in
    ``banned``, the others are free. What is left of it falls into cells in which one more word keeps its head and the
    next one does not.
    """
    k, n = out.shape
    room = n + 1
    heads, banned = np.empty((room, n), np.int64), np.zeros((room, n + 1), np.bool_)
    first, cost, heap = np.zeros(room, np.int64), np.empty(room), np.empty(room, np.int64)
    allowed, found = np.empty_like(scores), 0
    nodes = size = 0
    if best_tree(scores, single, heads[0]):
        cost[0] = -_sum(scores, heads[0])
        size, nodes = _push(heap, 0, cost, 0), 1
    while size > 0:
        node = _pop(heap, size, cost)
        size -= 1
        out[found] = heads[node]
        found += 1
        if found == k:
            break
        if nodes + n > room:
            room = 2 * (nodes + n)
            heads, banned = longer(heads, room), longer(banned, room)
            first, cost, heap = longer(first, room), longer(cost, room), longer(heap, room)
        allowed[:] = scores
        for m in range(n):
            own = heads[node, m]
            if m >= first[node]:
                for h in range(n + 1):
                    denied = h == own or (m == first[node] and banned[node, h])
                    banned[nodes, h] = denied
                    allowed[m, h] = -np.inf if denied else scores[m, h]
                if best_tree(allowed, single, heads[nodes]):
                    cost[nodes], first[nodes] = -_sum(scores, heads[nodes]), m
                    size = _push(heap, size, cost, nodes)
                    nodes += 1
            allowed[m] = -np.inf
            allowed[m, own] = scores[m, own]
    return found


@kernel
def longer(array: np.ndarray, room: int) -> np.ndarray:
    """The same rows, and room for more."""
    longer = np.empty((room, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


@kernel
def _sum(scores: Floats, heads: Ints) -> float:
    total = 0.0
    for m in range(len(heads)):
        total += scores[m, heads[m]]
    return total
