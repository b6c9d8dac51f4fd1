"""Dynamic programs: structures as derivations in a directed acyclic hypergraph, and every oracle over them.

A hyperedge builds its *head* node from its *tail* nodes (none: an axiom), and uses some parts. A derivation of the root
chooses one hyperedge for the root, and one for each tail below it; its score is that of all parts used. The recursion
of a dynamic program, written down as hyperedges, thus gives its MAP, k best, log-partition, samples and counts
(Klein and Manning 2001; Huang 2008). A space's structures must correspond to derivations one to one.

Here is the graph, MAP (Viterbi), exact counting, and the way back from a structure to its derivation; k-best lists are
in `_kbest`, sums and samples in `_inside`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from oracles import _inside, _kbest, _threads
from oracles._arrays import Bools, Floats, Ints, as_count, as_scores, canonical, leading
from oracles._jit import kernel
from oracles.compiled import Compiled, address, carray, pointer

Edge: TypeAlias = tuple[Hashable, Sequence[Hashable], Sequence[int]]


class Arrays(NamedTuple):
    """What kernels see. Node v is built by the edges first[v]..first[v + 1] - 1, and uses nodes before it.

    tails [E, 2]: N, one past the last node, stands for "none". Edge e uses the parts idx[ptr[e]..ptr[e + 1] - 1].
    """

    first: Ints
    tails: Ints
    ptr: Ints
    idx: Ints


class Layer(NamedTuple):
    """Nodes that can be computed together: as many hyperedges each, none of them a tail of another.

    nodes and edges are ranges. tails [2, edges]: positions in the nodes of the layers ``sources``, one after the
    other, and past their end for "none"; ``used`` says which of the two columns name a node at all.
    """

    nodes: tuple[int, int]
    edges: tuple[int, int]
    sources: tuple[int, ...]
    tails: Ints
    used: tuple[bool, bool]


class Hypergraph:
    """A pruned hypergraph with its nodes in topological order, layer by layer; the last one is the root.

    Parameters
    ----------
    edges : iterable of (head, tails, parts)
        In topological order: all edges of a node come before the first that has it as a tail. Nodes are named by
        anything hashable; ``parts`` are numbers from 0 to ``parts`` - 1. The head of the last edge is the root.
    parts : int
        How many parts have scores.

    Raises
    ------
    ValueError
        No edges, a tail that no earlier edge builds, a head that was a tail before, a part out of range.
    """

    def __init__(self, edges: Iterable[Edge], parts: int) -> None:
        self.parts = as_count("parts", parts, 0)
        heads, tails, used = _numbered(edges, self.parts)
        order, edge_order, renumbered = _pruned(heads, tails)
        self.nodes = len(order)
        counts = np.array([len(used[e]) for e in edge_order], np.int64)
        idx = np.array([i for e in edge_order for i in used[e]], np.int64)
        degree = np.bincount(renumbered[heads[edge_order]], minlength=self.nodes)
        self.arrays = Arrays(
            np.concatenate([[0], np.cumsum(degree)]),
            np.ascontiguousarray(renumbered[tails[edge_order]]),
            np.concatenate([[0], np.cumsum(counts)]),
            idx,
        )

    @cached_property
    def layers(self) -> list[Layer]:
        """Nodes by level and number of edges, for computations that go through them side by side."""
        first, tails = self.arrays.first, self.arrays.tails
        level = _levels(first, tails)
        degree = np.diff(first)
        start = np.flatnonzero(np.diff(level, prepend=-1) | np.diff(degree, prepend=-1))
        end = np.append(start[1:], self.nodes)
        layer_of = np.repeat(np.arange(len(start)), end - start)
        out = []
        for a, b in zip(start.tolist(), end.tolist(), strict=True):
            lo, hi = int(first[a]), int(first[b])
            own = tails[lo:hi]
            real = own < self.nodes
            sources = np.unique(layer_of[own[real]])
            offset = np.zeros(len(start), np.int64)
            offset[sources] = np.cumsum(np.append(0, (end - start)[sources]))[:-1]
            position = np.full(own.shape, int((end - start)[sources].sum()), np.int64)
            node = own[real]
            position[real] = offset[layer_of[node]] + node - start[layer_of[node]]
            used = (bool(real[:, 0].any()), bool(real[:, 1].any()))
            out.append(Layer((a, b), (lo, hi), tuple(sources.tolist()), np.ascontiguousarray(position.T), used))
        return out

    @cached_property
    def part_table(self) -> Ints:
        """The parts of each edge [E, m], filled up with ``parts``, which stands for "none"."""
        ptr, idx = self.arrays.ptr, self.arrays.idx
        counts = np.diff(ptr)
        table = np.full((len(counts), int(counts.max(initial=0))), self.parts, np.int64)
        table[leading(counts, table.shape[1])] = idx
        return table

    @cached_property
    def longest(self) -> int:
        """The most edges that a derivation can have."""
        first, tails, *_ = self.arrays
        size = np.zeros(self.nodes + 1, np.int64)
        for v in range(self.nodes):
            size[v] = 1 + size[tails[first[v] : first[v + 1]]].sum(axis=1).max()
        return int(size[self.nodes - 1])

    def __repr__(self) -> str:
        return f"Hypergraph({self.nodes} nodes, {len(self.arrays.tails)} edges, {self.parts} parts)"


def by_index(edges: Iterable[tuple[Any, ...]], shapes: Sequence[Sequence[int]]) -> Iterator[Edge]:
    """Hyperedges whose parts are indices into arrays, as `Hypergraph` wants them: by number.

    Parameters
    ----------
    edges : iterable of (head, tails, parts of the first array, of the second, ...)
        A part is an index: a tuple, or a number where the array has one dimension. Arrays at the end may be left out.
    shapes : of the arrays; their parts are numbered in C order, one array after the other

    Raises
    ------
    ValueError
        An index that is outside, or more groups of parts than arrays.
    """
    strides = [[int(np.prod(s[d + 1 :], dtype=np.int64)) for d in range(len(s))] for s in shapes]
    starts = np.cumsum([0, *(int(np.prod(s, dtype=np.int64)) for s in shapes)]).tolist()
    for head, tails, *groups in edges:
        if not 1 <= len(groups) <= len(shapes):
            raise ValueError(
                f"edges: {head!r} came with {len(groups)} groups of parts, expected 1 to {len(shapes)}: one for each "
                "array of scores"
            )
        numbers = []
        for group, shape, stride, start in zip(groups, shapes, strides, starts, strict=False):
            for part in group:
                index = part if isinstance(part, tuple) else (part,)
                if len(index) != len(shape) or not all(0 <= i < n for i, n in zip(index, shape, strict=True)):
                    raise ValueError(
                        f"edges: {head!r} uses the part {part!r}, expected an index into shape {tuple(shape)}"
                    )
                numbers.append(start + sum(i * n for i, n in zip(index, stride, strict=True)))
        yield head, tails, numbers


def argmax(graph: Hypergraph, scores: npt.ArrayLike, extra: npt.ArrayLike | None = None) -> Bools:
    """The parts that the best derivation of each row uses.

    Parameters
    ----------
    scores : [B, P]
    extra : [B, Q] or [1, Q], shared by all rows; optional
        Scores of the parts P to P + Q - 1, with P + Q = ``graph.parts``.

    Returns
    -------
    [B, P + Q] bool; any derivation where none is feasible
    """
    first, more = _canonical(graph, scores, extra)
    out = np.zeros((len(first), graph.parts), np.bool_)
    _threads.by_rows(partial(_argmax, graph.arrays, first, more, out), len(first), 4 * _work(graph))
    return out


def topk(
    graph: Hypergraph, scores: npt.ArrayLike, extra: npt.ArrayLike | None = None, *, k: int
) -> tuple[Bools, Bools]:
    """The k best derivations of each row, lazily (Huang and Chiang 2005, algorithm 3).

    A node's next best derivation is looked for when one above it needs it: O(E + D k log k) a row, where D is the
    number of edges in a derivation.

    Parameters
    ----------
    scores, extra : as for `argmax`
    k : at least 1; may exceed the number of derivations

    Returns
    -------
    z : [B, k, P + Q] bool, best first; where invalid, the row's first again
    valid : [B, k] bool, the leading min(k, number of feasible derivations)
    """
    first, more = _canonical(graph, scores, extra)
    k = as_count("k", k)
    z = np.zeros((len(first), k, graph.parts), np.bool_)
    count = np.zeros(len(first), np.int64)
    _threads.by_rows(partial(_kbest.k_best, graph.arrays, first, more, z, count), len(first), 16 * _work(graph))
    valid = leading(count, k)
    z[~valid] = np.repeat(z[:, :1], k, axis=1)[~valid]
    return z, valid


def log_partition(graph: Hypergraph, scores: npt.ArrayLike, extra: npt.ArrayLike | None = None) -> Floats:
    """The log of the sum of exp(score) over all derivations, [B]; -inf where none is feasible."""
    first, more = _canonical(graph, scores, extra)
    out = np.empty(len(first))
    _threads.by_rows(partial(_inside.totals, graph.arrays, first, more, out), len(first), 32 * _work(graph))
    return out


def sample(
    graph: Hypergraph, scores: npt.ArrayLike, extra: npt.ArrayLike | None = None, *, uniform: npt.ArrayLike
) -> Bools:
    """Independent derivations with probabilities proportional to exp(score).

    Parameters
    ----------
    scores, extra : as for `argmax`; every row feasible
    uniform : [count, B, graph.longest], numbers from [0, 1), all that chance decides

    Returns
    -------
    [count, B, P + Q] bool
    """
    first, more = _canonical(graph, scores, extra)
    chance = canonical(np.asarray(uniform))
    if chance.ndim != 3 or chance.shape[1:] != (len(first), graph.longest):
        raise ValueError(f"uniform has shape {chance.shape}, expected [count, {len(first)}, {graph.longest}]")
    out = np.zeros((len(chance), len(first), graph.parts), np.bool_)
    work = 32 * _work(graph) + 8 * len(chance) * graph.longest
    _threads.by_rows(partial(_inside.draw, graph.arrays, first, more, chance, out), len(first), work)
    return out


def enumerate(graph: Hypergraph) -> Bools:
    """Every derivation's parts, [cardinality, parts], in a fixed order."""
    every: Bools = topk(graph, np.zeros((1, graph.parts)), k=cardinality(graph))[0][0]
    return every


def cardinality(graph: Hypergraph) -> int:
    """How many derivations there are, exactly."""
    first, tails = graph.arrays.first.tolist(), graph.arrays.tails.tolist()
    ways = [0] * graph.nodes + [1]
    for v in range(graph.nodes):
        ways[v] = sum(ways[a] * ways[b] for a, b in tails[first[v] : first[v + 1]])
    return ways[graph.nodes - 1]


def derivations(graph: Hypergraph, z: npt.NDArray[np.bool_], used: int) -> tuple[Bools, Bools]:
    """The derivation that uses, of the first ``used`` parts, exactly those in z.

    Parameters
    ----------
    z : [N, used] bool

    Returns
    -------
    rest : [N, parts - used] bool, which of the other parts that derivation uses
    found : [N] bool, whether there is one
    """
    z = np.ascontiguousarray(z, np.bool_)
    rest, found = np.zeros((len(z), graph.parts - used), np.bool_), np.zeros(len(z), np.bool_)
    _threads.by_rows(partial(_derive, graph.arrays, z, rest, found), len(z), 4 * _work(graph))
    return rest, found


def compiled(graph: Hypergraph, used: int, labels: int = 0) -> Compiled:
    """MAP as C functions, for structures over the first ``used`` parts. The graph has to outlive them.

    ``labels``: structures are not their own vertices, but int64 numbers, of the one of so many parts that is on, -1 for
    none. The extra scores come one after the other.
    """
    places = tuple(int(x.ctypes.data) for x in graph.arrays)
    sizes = (graph.nodes, len(graph.arrays.tails), len(graph.arrays.idx), used, graph.parts - used, labels)
    return Compiled(address(_best), address(_describe), (*sizes, *places))


def _numbered(edges: Iterable[Edge], parts: int) -> tuple[Ints, Ints, list[tuple[int, ...]]]:
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


def _pruned(heads: Ints, tails: Ints) -> tuple[Ints, Ints, Ints]:
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


def _levels(first: Ints, tails: Ints) -> Ints:
    nodes = len(first) - 1
    level = np.zeros(nodes + 1, np.int64)
    _rank(first, tails, np.arange(nodes), level)
    return level[:-1]


def _canonical(graph: Hypergraph, scores: npt.ArrayLike, extra: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    own = np.asarray(scores)
    first = as_scores("scores", own, "B, P") if own.shape[-1:] != (0,) else np.zeros(own.shape)
    if extra is None:
        more = np.zeros((1, 0))
    else:
        other = np.asarray(extra)
        more = as_scores("extra", other, "B, Q") if other.shape[-1:] != (0,) else np.zeros((1, 0))
    if first.shape[1] + more.shape[1] != graph.parts or (len(more) != len(first) and len(more) != 1):
        raise ValueError(
            f"scores and extra have shapes {first.shape} and {more.shape}, expected [B, P] and [B or 1, Q] with "
            f"P + Q = {graph.parts}"
        )
    return first, more


def _work(graph: Hypergraph) -> int:
    """About how many elementary steps a pass over the graph takes."""
    return len(graph.arrays.tails) + len(graph.arrays.idx)


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
def _argmax(graph: Arrays, scores: Floats, extra: Floats, out: Bools, start: int, stop: int) -> None:
    nodes = len(graph.first) - 1
    value, best, stack = np.empty(nodes + 1), np.empty(nodes, np.int64), np.empty(nodes + 1, np.int64)
    for b in range(start, stop):
        best_edges(graph, scores[b], extra[b if len(extra) > 1 else 0], value, best)
        trace(graph, best, stack, out[b])


@kernel
def _derive(graph: Arrays, z: Bools, rest: Bools, found: Bools, start: int, stop: int) -> None:
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
        _derive(_at(sizes), on, rest, found, 0, 1)
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
