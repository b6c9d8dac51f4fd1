"""Numba kernels of the best derivation in a hypergraph, for a batch and as C functions for compiled solvers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from oracles._arrays import Bools, Floats, Ints
from oracles._jit import kernel
from oracles.compiled import Compiled, address, carray, pointer


class Arrays(NamedTuple):
    """What kernels see. Node v is built by the edges first[v]..first[v + 1] - 1, and uses nodes before it.

    tails [E, 2]: N, one past the last node, stands for "none". Edge e uses the parts idx[ptr[e]..ptr[e + 1] - 1].
    """

    first: Ints
    tails: Ints
    ptr: Ints
    idx: Ints


@kernel
def best_edges(graph: Arrays, scores: Floats, extra: Floats, value: Floats, best: Ints) -> None:
    """The score of the best derivation of each node, ``value`` [N + 1], and its edge: of equals the first."""
    first, tails, ptr, idx = graph
    parts = scores.shape[0]
    value[len(best)] = 0.0
    for v in range(len(best)):
        top, at = -np.inf, first[v]
        for e in range(first[v], first[v + 1]):
            x = value[tails[e, 0]] + value[tails[e, 1]]
            for j in range(ptr[e], ptr[e + 1]):
                x += scores[idx[j]] if idx[j] < parts else extra[idx[j] - parts]
            if x > top:
                top, at = x, e
        value[v], best[v] = top, at


@kernel
def trace(graph: Arrays, best: Ints, stack: Ints, out: Bools) -> None:
    """Mark the parts of the root's derivation by the edges ``best`` [N]; ``stack`` [N + 1] is scratch."""
    _, tails, ptr, idx = graph
    none = len(best)
    stack[0], size = none - 1, 1
    while size > 0:
        size -= 1
        e = best[stack[size]]
        for j in range(ptr[e], ptr[e + 1]):
            out[idx[j]] = True
        for j in range(2):
            if tails[e, j] < none:
                stack[size] = tails[e, j]
                size += 1


@kernel
def argmax(graph: Arrays, scores: Floats, extra: Floats, out: Bools, start: int, stop: int) -> None:
    nodes = len(graph.first) - 1
    value, best, stack = np.empty(nodes + 1), np.empty(nodes, np.int64), np.empty(nodes + 1, np.int64)
    for b in range(start, stop):
        best_edges(graph, scores[b], extra[b if len(extra) > 1 else 0], value, best)
        trace(graph, best, stack, out[b])


@kernel
def derive(graph: Arrays, z: Bools, rest: Bools, found: Bools, start: int, stop: int) -> None:
    nodes, (used, more) = len(graph.first) - 1, (z.shape[1], rest.shape[1])
    value, best, stack = np.empty(nodes + 1), np.empty(nodes, np.int64), np.empty(nodes + 1, np.int64)
    scores, nothing, out = np.empty(used), np.zeros(more), np.empty(used + more, np.bool_)
    for i in range(start, stop):
        # what may be used counts one, so that the best uses all of it
        for j in range(used):
            scores[j] = 1.0 if z[i, j] else -np.inf
        best_edges(graph, scores, nothing, value, best)
        found[i] = value[nodes - 1] == z[i].sum()
        if found[i]:
            out[:] = False
            trace(graph, best, stack, out)
            rest[i] = out[used:]


@kernel
def _at(sizes: Any) -> Arrays:
    """The graph that ``compiled`` has described."""
    nodes, edges, entries = sizes[0], sizes[1], sizes[2]
    return Arrays(
        carray(pointer(sizes[6]), nodes + 1),
        carray(pointer(sizes[7]), (edges, 2)),
        carray(pointer(sizes[8]), edges + 1),
        carray(pointer(sizes[9]), entries),
    )


def _best(at: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    nodes, used, others, labels = sizes[0], sizes[3], sizes[4], sizes[5]
    value, best, stack = np.empty(nodes + 1), np.empty(nodes, np.int64), np.empty(nodes + 1, np.int64)
    out = np.zeros(used + others, np.bool_)
    scores, added = carray(at, used), carray(extra, others)
    graph = _at(sizes)
    best_edges(graph, scores, added, value, best)
    trace(graph, best, stack, out)
    for i in range(used):
        v[i] = 1.0 if out[i] else 0.0
    if labels > 0:
        numbers = carray(z, used // labels, np.int64)
        for i in range(used // labels):
            numbers[i] = -1
            for j in range(labels):
                if out[i * labels + j]:
                    numbers[i] = j
    _add_up(out, used, added, more)


def _describe(scores: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    used, others, labels = sizes[3], sizes[4], sizes[5]
    if labels > 0:
        numbers = carray(z, used // labels, np.int64)
        for i in range(used):
            v[i] = 1.0 if numbers[i // labels] == i % labels else 0.0
    more[0], more[1] = 0.0, 0.0
    if others > 0:
        on, rest, found = np.empty((1, used), np.bool_), np.zeros((1, others), np.bool_), np.zeros(1, np.bool_)
        for i in range(used):
            on[0, i] = v[i] > 0.0
        derive(_at(sizes), on, rest, found, 0, 1)
        _add_up(rest[0], 0, carray(extra, others), more)


@kernel
def _add_up(out: Bools, start: int, extra: Floats, more: Any) -> None:
    """The sum of the extra scores that are used, and of their finite absolute values."""
    total, size = 0.0, 0.0
    for i in range(len(extra)):
        if out[start + i]:
            total += extra[i]
            size += abs(extra[i]) if extra[i] > -np.inf else 0.0
    more[0], more[1] = total, size


def compiled(graph: Arrays, used: int, others: int, labels: int) -> Compiled:
    """MAP as C functions; see `hypergraph.compiled`."""
    sizes = (len(graph.first) - 1, len(graph.tails), len(graph.idx), used, others, labels)
    return Compiled(address(_best), address(_describe), (*sizes, *(int(x.ctypes.data) for x in graph)))
