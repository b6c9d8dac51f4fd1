"""Numba kernels of lazy k-best derivations in a hypergraph (*Better k-best Parsing*, Huang and Chiang 2005).

A *record* is a derivation of a node: its edge, and the records of the edge's tails. Records 0..N-1 are the nodes' best
derivations, N stands for "none", those behind are made when they are needed. Each node keeps those already ranked as a
linked list and its candidates as a pairing heap (Fredman et al. 1986), so that memory goes with what is looked at.

The next of a node: its last ranked record, with one tail's record replaced by the next of that tail, joins the
candidates, and the best of them is ranked. So that none comes twice, the second tail moves only where the first has its
best. The recursion is a stack, for graphs may be deep. Ties: the record made first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles._arrays import Bools, Floats, Ints
from oracles._inside import weigh
from oracles._jit import kernel

# columns of a record's whole numbers
_EDGE, _FIRST, _SECOND, _NEXT, _CHILD, _SIBLING = range(6)


@kernel
def _meld(score: Floats, record: Ints, a: int, b: int) -> int:
    """Join two heaps, -1 being the empty one; returns the root."""
    if a < 0:
        return b
    if b < 0:
        return a
    if score[b] > score[a] or (score[b] == score[a] and b < a):
        a, b = b, a
    record[b, _SIBLING] = record[a, _CHILD]
    record[a, _CHILD] = b
    return a


@kernel
def _without_root(score: Floats, record: Ints, root: int) -> int:
    """The heap without its root: its children joined in pairs, then the pairs from the last to the first."""
    pairs, at = -1, record[root, _CHILD]
    while at >= 0:
        other = record[at, _SIBLING]
        record[at, _SIBLING] = -1
        if other >= 0:
            following = record[other, _SIBLING]
            record[other, _SIBLING] = -1
            at = _meld(score, record, at, other)
        else:
            following = -1
        record[at, _SIBLING] = pairs
        pairs, at = at, following
    heap = -1
    while pairs >= 0:
        following = record[pairs, _SIBLING]
        record[pairs, _SIBLING] = -1
        heap = _meld(score, record, heap, pairs)
        pairs = following
    return heap


@kernel
def _best(graph: Any, weight: Floats, score: Floats, record: Ints) -> None:
    """The nodes' best derivations, records 0..N-1."""
    first, tails, _, _ = graph
    nodes = len(first) - 1
    score[nodes] = 0.0
    for v in range(nodes):
        top, at = -np.inf, first[v]
        for e in range(first[v], first[v + 1]):
            x = weight[e] + score[tails[e, 0]] + score[tails[e, 1]]
            if x > top:
                top, at = x, e
        score[v] = top
        record[v, _EDGE], record[v, _FIRST], record[v, _SECOND] = at, tails[at, 0], tails[at, 1]
        record[v, _NEXT], record[v, _CHILD], record[v, _SIBLING] = -1, -1, -1


@kernel
def _made(weight: Floats, score: Floats, record: Ints, size: int, edge: int, a: int, b: int) -> bool:
    """Write a record at ``size``; False where it is not feasible."""
    x = weight[edge] + score[a] + score[b]
    if x == -np.inf:
        return False
    score[size] = x
    record[size, _EDGE], record[size, _FIRST], record[size, _SECOND] = edge, a, b
    record[size, _NEXT], record[size, _CHILD], record[size, _SIBLING] = -1, -1, -1
    return True


@kernel
def _mark(graph: Any, record: Ints, root: int, stack: Ints, out: Bools) -> None:
    """Mark the parts of a record's derivation."""
    _, _, ptr, idx = graph
    none = len(graph.first) - 1
    stack[0], size = root, 1
    while size > 0:
        size -= 1
        r = stack[size]
        e = record[r, _EDGE]
        for j in range(ptr[e], ptr[e + 1]):
            out[idx[j]] = True
        for below in (record[r, _FIRST], record[r, _SECOND]):
            if below != none:
                stack[size] = below
                size += 1


@kernel
def k_best(graph: Any, scores: Floats, extra: Floats, z: Bools, count: Ints, start: int, stop: int) -> None:
    """Rank up to k = z.shape[1] derivations of each row: their parts in z [B, k, parts], how many in ``count`` [B]."""
    first, tails, _, _ = graph
    nodes, edges, k = len(first) - 1, len(tails), z.shape[1]
    root = nodes - 1
    capacity = 2 * (nodes + edges) + 64
    weight = np.empty(edges)
    score, record = np.empty(capacity), np.empty((capacity, 6), np.int64)
    heap, last, state = np.empty(nodes, np.int64), np.empty(nodes, np.int64), np.empty(nodes, np.int8)
    path, step, stack = np.empty(nodes + 1, np.int64), np.empty(nodes + 1, np.int8), np.empty(nodes + 1, np.int64)
    for b in range(start, stop):
        weigh(graph, scores[b], extra[b if len(extra) > 1 else 0], weight)
        _best(graph, weight, score, record)
        size = nodes + 1
        count[b] = 0
        if score[root] == -np.inf:
            _mark(graph, record, root, stack, z[b, 0])
            continue
        heap[:] = -1
        state[:] = 0  # 0: candidates not listed yet, 1: listed, 2: no further derivation
        for v in range(nodes):
            last[v] = v
        ranked = root
        while True:
            _mark(graph, record, ranked, stack, z[b, count[b]])
            count[b] += 1
            if count[b] == k:
                break
            # rank the next of the root, and on the way what it needs of the nodes below
            path[0], step[0], depth = root, 0, 1
            while depth > 0:
                v = path[depth - 1]
                if state[v] == 0:
                    state[v] = 1
                    size, score, record = _room(size, first[v + 1] - first[v], score, record)
                    for e in range(first[v], first[v + 1]):
                        if e != record[v, _EDGE] and _made(weight, score, record, size, e, tails[e, 0], tails[e, 1]):
                            heap[v] = _meld(score, record, heap[v], size)
                            size += 1
                r = last[v]
                e = record[r, _EDGE]
                waits = False
                while step[depth - 1] < 2:
                    which = step[depth - 1]
                    t = tails[e, which]
                    # the first tail moves always, the second where the first has its best
                    if t < nodes and (which == 0 or record[r, _FIRST] == tails[e, 0]):
                        following = record[record[r, _FIRST + which], _NEXT]
                        if following < 0 and state[t] < 2:
                            path[depth], step[depth] = t, 0
                            depth += 1
                            waits = True
                            break
                        if following >= 0:
                            size, score, record = _room(size, 1, score, record)
                            one, other = record[r, _FIRST], record[r, _SECOND]
                            if which == 0:
                                one = following
                            else:
                                other = following
                            if _made(weight, score, record, size, e, one, other):
                                heap[v] = _meld(score, record, heap[v], size)
                                size += 1
                    step[depth - 1] += 1
                if waits:
                    continue
                if heap[v] < 0:
                    state[v] = 2
                else:
                    top = heap[v]
                    heap[v] = _without_root(score, record, top)
                    record[top, _CHILD] = -1
                    record[r, _NEXT] = top
                    last[v] = top
                depth -= 1
            if state[root] == 2:
                break
            ranked = last[root]


@kernel
def _room(size: int, more: int, score: Floats, record: Ints) -> tuple[int, Floats, Ints]:
    """The same records with room for some more."""
    if size + more <= len(score):
        return size, score, record
    capacity = 2 * (size + more)
    wider, longer = np.empty(capacity), np.empty((capacity, 6), np.int64)
    wider[:size], longer[:size] = score[:size], record[:size]
    return size, wider, longer
