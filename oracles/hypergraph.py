"""Dynamic programs: structures as derivations in a directed acyclic hypergraph, and every oracle over them.

A hyperedge builds its *head* node from its *tail* nodes (none: an axiom), and uses some parts. A derivation of the root
chooses one hyperedge for the root, and one for each tail below it; its score is that of all parts used. The recursion
of a dynamic program, written down as hyperedges, thus gives its MAP, k best, log-partition, samples and counts
(Klein and Manning 2001; Huang 2008). A space's structures must correspond to derivations one to one.

Here are the graph and the oracles over it; the kernels of MAP are in `_viterbi`, those of k-best lists in `_kbest`, of
sums and samples in `_inside`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from oracles import _inside, _kbest, _pruning, _threads, _viterbi
from oracles._arrays import Bools, Floats, Ints, as_count, as_scores, canonical, leading
from oracles._pruning import Edge
from oracles._viterbi import Arrays
from oracles.compiled import Compiled


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
        heads, tails, used = _pruning.numbered(edges, self.parts)
        order, edge_order, renumbered = _pruning.pruned(heads, tails)
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
        level = _pruning.levels(first, tails)
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
    _threads.by_rows(partial(_viterbi.argmax, graph.arrays, first, more, out), len(first), 4 * _work(graph))
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
    _threads.by_rows(partial(_viterbi.derive, graph.arrays, z, rest, found), len(z), 4 * _work(graph))
    return rest, found


def compiled(graph: Hypergraph, used: int, labels: int = 0) -> Compiled:
    """MAP as C functions, for structures over the first ``used`` parts. The graph has to outlive them.

    ``labels``: structures are not their own vertices, but int64 numbers, of the one of so many parts that is on, -1 for
    none. The extra scores come one after the other.
    """
    return _viterbi.compiled(graph.arrays, used, graph.parts - used, labels)


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
