"""From hyperedges as a person writes them to nodes in topological order, without those that the root cannot use."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from oracles._arrays import Bools, Ints
from oracles._jit import kernel

Edge: TypeAlias = tuple[Hashable, Sequence[Hashable], Sequence[int]]


def numbered(edges: Iterable[Edge], parts: int) -> tuple[Ints, Ints, list[tuple[int, ...]]]:
    """Heads [E] and tails [E, 2] (-1: none) by number, and parts; edges of more than two tails cut into several."""
    number: dict[Hashable, int] = {}
    closed: set[int] = set()
    heads: list[int] = []
    pairs: list[tuple[int, int]] = []
    used: list[tuple[int, ...]] = []
    inner = 0

    def add(head: int, a: int, b: int, own: tuple[int, ...]) -> None:
        heads.append(head)
        pairs.append((a, b))
        used.append(own)

    for head, tails, own in edges:
        below = []
        for tail in tails:
            at = number.get(tail)
            if at is None:
                raise ValueError(f"edges: {head!r} is built from {tail!r}, which no edge before builds")
            closed.add(at)
            below.append(at)
        own = tuple(own)
        if own and not 0 <= min(own) <= max(own) < parts:
            raise ValueError(f"edges: {head!r} uses the parts {own}, expected numbers from 0 to {parts - 1}")
        while len(below) > 2:  # a node of its own for the first two
            fresh = number[_Inner(inner)] = len(number)
            inner += 1
            add(fresh, below[0], below[1], ())
            below[:2] = [fresh]
        at = number.setdefault(head, len(number))
        if at in closed:
            raise ValueError(f"edges: {head!r} gets another edge after it was a tail; expected topological order")
        a, b = (*below, -1, -1)[:2]
        add(at, a, b, own)
    if not heads:
        raise ValueError("edges: there are none, expected at least one, whose head is the root")
    return np.array(heads), np.array(pairs).reshape(-1, 2), used


class _Inner(NamedTuple):
    """The name of a node that nobody named."""

    number: int


def pruned(heads: Ints, tails: Ints) -> tuple[Ints, Ints, Ints]:
    """What the root can use: nodes in order of level and number of edges, edges by head, and nodes' new numbers."""
    nodes = int(heads.max()) + 1
    order = np.argsort(heads, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(heads, minlength=nodes))])
    sorted_tails = tails[order]
    root = int(heads[-1])
    kept = np.zeros(nodes, np.bool_)
    _reach(first, sorted_tails, root, kept)
    level = np.zeros(nodes + 1, np.int64)
    _rank(first, sorted_tails, _by_first_use(heads, nodes), level)
    alive = np.flatnonzero(kept)
    alive = alive[np.lexsort((alive, np.diff(first)[alive], level[alive]))]
    renumbered = np.full(nodes + 1, -1, np.int64)
    renumbered[alive] = np.arange(len(alive))
    renumbered[nodes] = len(alive)  # -1, none, indexes this one
    edges = np.concatenate([order[first[v] : first[v + 1]] for v in alive])
    return alive, edges, renumbered


def _by_first_use(heads: Ints, nodes: int) -> Ints:
    """Nodes in the order in which their last edges come, which is topological."""
    last = np.zeros(nodes, np.int64)
    np.maximum.at(last, heads, np.arange(len(heads)))
    return np.argsort(last, kind="stable")


@kernel
def _reach(first: Ints, tails: Ints, root: int, kept: Bools) -> None:
    stack = np.empty(len(kept), np.int64)
    stack[0], size = root, 1
    kept[root] = True
    while size > 0:
        size -= 1
        v = stack[size]
        for e in range(first[v], first[v + 1]):
            for j in range(2):
                t = tails[e, j]
                if t >= 0 and not kept[t]:
                    kept[t] = True
                    stack[size] = t
                    size += 1


@kernel
def _rank(first: Ints, tails: Ints, order: Ints, level: Ints) -> None:
    """One more than the highest level of a tail; 0 for what axioms alone build. level[-1], of "none", is -1."""
    level[len(order)] = -1
    for v in order:
        top = -1
        for e in range(first[v], first[v + 1]):
            for j in range(2):
                top = max(top, level[tails[e, j]])
        level[v] = top + 1


def levels(first: Ints, tails: Ints) -> Ints:
    nodes = len(first) - 1
    level = np.zeros(nodes + 1, np.int64)
    _rank(first, tails, np.arange(nodes), level)
    return level[:-1]
