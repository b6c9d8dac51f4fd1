"""Oracles for a first-order linear chain: T labels out of S, scored one by one and in neighbouring pairs.

MAP is Viterbi's algorithm (Viterbi 1967), O(T S^2) a row, in a kernel that compares several labels at a time. The
k best are those of the chain's hypergraph. Ties: the lower previous label. transition[b, t, i, j] scores label i
at t followed by j at t + 1; it may be anything that broadcasts to [B, T-1, S, S], and is never copied along a batch
dimension it was broadcast over.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from oracles import _threads, hypergraph
from oracles._arrays import Bools, Floats, Ints, as_count, as_scores, canonical, real, refuse_nan
from oracles._jit import kernel
from oracles.compiled import Compiled, address, carray
from oracles.hypergraph import Hypergraph


def argmax(unary: npt.ArrayLike, transition: npt.ArrayLike) -> Ints:
    """The best labels of each row: unary [B, T, S], transition [B, T-1, S, S] -> [B, T]."""
    nodes, edges = _canonical(unary, transition)
    batch, length, states = nodes.shape
    labels = np.empty((batch, length), np.int64)
    _threads.by_rows(partial(_viterbi, nodes, edges, labels), batch, length * states * (states + 4))
    return labels


def topk(unary: npt.ArrayLike, transition: npt.ArrayLike, k: int) -> tuple[Ints, Bools]:
    """The k best labellings of each row, best first.

    Parameters
    ----------
    unary : [B, T, S]
    transition : broadcasts to [B, T-1, S, S]
    k : at least 1; may exceed S^T

    Returns
    -------
    labels : [B, k, T] int64; where invalid, the row's first labelling again
    valid : [B, k] bool, the leading min(k, number of feasible labellings); all False for an infeasible row
    """
    nodes, edges = _canonical(unary, transition)
    batch, length, states = nodes.shape
    scores, extra = nodes.reshape(batch, length * states), edges.reshape(len(edges), (length - 1) * states * states)
    used, valid = hypergraph.topk(graph(length, states), scores, extra, k=k)
    return used[..., : length * states].reshape(batch, used.shape[1], length, states).argmax(axis=3), valid


def hyperedges(length: int, states: int) -> Iterator[tuple[Any, ...]]:
    """A node for each label at each position, built from each label before; parts by index, as for `by_index`."""
    for t in range(length):
        for j in range(states):
            if t == 0:
                yield (t, j), (), [(t, j)]
            for i in range(states if t else 0):
                yield (t, j), [(t - 1, i)], [(t, j)], [(t - 1, i, j)]
    for j in range(states):
        yield "end", [(length - 1, j)], []


@cache
def graph(length: int, states: int) -> Hypergraph:
    """The chain's hypergraph; its parts are the labels [T, S], then the transitions [T-1, S, S]."""
    shapes = [(length, states), (length - 1, states, states)]
    parts = length * states + (length - 1) * states * states
    return Hypergraph(hypergraph.by_index(hyperedges(length, states), shapes), parts)


def extra_scores(labels: Ints, transition: Floats) -> Floats:
    """The sums of the transitions of labellings [B, K, T], and of their finite absolute values: [2, B, K].

    ``transition`` is an array as kernels take it, [B or 1, T-1, S, S].
    """
    out = np.empty((2, *labels.shape[:2]))
    batch, k, length = labels.shape
    _threads.by_rows(partial(_extra_scores, labels, transition, out), batch, 8 * k * length)
    return out


def enumerate(length: int, states: int) -> Ints:
    """Every labelling, [states^length, length], in lexicographic order."""
    place = states ** np.arange(as_count("length", length))[::-1]
    return np.arange(cardinality(length, states))[:, None] // place % states


def cardinality(length: int, states: int) -> int:
    """states^length."""
    power: int = as_count("states", states) ** as_count("length", length)
    return power


def _canonical(unary: npt.ArrayLike, transition: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Unary scores [B, T, S] and transitions [U, T-1, S, S], U = 1 where all rows share them and else B."""
    nodes, edges = as_scores("unary", unary, "B, T, S"), real("transition", transition)
    batch, length, states = nodes.shape
    shape = (batch, length - 1, states, states)
    if edges.shape != shape:
        try:
            edges = np.broadcast_to(edges, shape)
        except ValueError:
            raise ValueError(
                f"transition has shape {edges.shape}, expected {shape} or what broadcasts to it, "
                f"as unary has shape {nodes.shape}"
            ) from None
    edges = canonical(edges[:1] if edges.strides[0] == 0 else edges)
    refuse_nan("transition", edges)
    return nodes, edges


def _arrivals(width: int) -> Any:
    """How ``width`` labels at a time, side by side in a vector register, find their best predecessor's score."""

    @intrinsic
    def best(context: Any, value: Any, arcs: Any, states: Any, out: Any = None) -> Any:
        """out[j] = max_i value[i] + arcs[i states + j] for j < width; numbers are given by address."""

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            number, integer = ir.DoubleType(), ir.IntType(64)
            vector, lanes = ir.VectorType(number, width), ir.VectorType(ir.IntType(32), width)
            before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            value, arcs, out = (builder.inttoptr(args[k], number.as_pointer()) for k in (0, 1, 3))
            builder.branch(loop)
            builder.position_at_end(loop)
            i, most = builder.phi(integer), builder.phi(vector)
            one = builder.insert_element(
                ir.Constant(vector, ir.Undefined), builder.load(builder.gep(value, [i])), ir.Constant(ir.IntType(32), 0)
            )
            own = builder.shuffle_vector(one, one, ir.Constant(lanes, [0] * width))
            line = builder.bitcast(builder.gep(arcs, [builder.mul(i, args[2])]), vector.as_pointer())
            total = builder.fadd(own, builder.load(line, align=8))
            larger = builder.select(builder.fcmp_ordered(">", total, most), total, most)
            following = builder.add(i, ir.Constant(integer, 1))
            builder.cbranch(builder.icmp_signed("<", following, args[2]), loop, after)
            for phi, start, step in (
                (i, ir.Constant(integer, 0), following),
                (most, ir.Constant(vector, [-np.inf] * width), larger),
            ):
                phi.add_incoming(start, before)
                phi.add_incoming(step, loop)
            builder.position_at_end(after)
            builder.store(larger, builder.bitcast(out, vector.as_pointer()), align=8)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, types.int64), emit

    return best


_four, _eight = _arrivals(4), _arrivals(8)


@kernel
def _step(value: int, arcs: int, states: int, out: int) -> None:
    """out[j] = max_i value[i] + arcs[i states + j], of at least four states; the last few are found twice."""
    for j in range(0, states - 7, 8):
        _eight(value, arcs + 8 * j, states, out + 8 * j)
    rest = states % 8
    if rest > 4 and states > 8:
        _eight(value, arcs + 8 * (states - 8), states, out + 8 * (states - 8))
    elif rest > 0:
        if states < 8:
            _four(value, arcs, states, out)
        _four(value, arcs + 8 * (states - 4), states, out + 8 * (states - 4))


@kernel
def _path(unary: Floats, arcs: Floats, value: Floats, labels: Ints) -> None:
    """The best labels [T] by unary [T, S] and arcs [T-1, S S]; ``value`` [T, S] becomes the best score up to each.

    No pointers are kept: a label's predecessor is found again from the values, in as many steps as there are labels.
    """
    length, states = unary.shape
    for j in range(states):
        value[0, j] = unary[0, j]
    first, first_arc = value.ctypes.data, arcs.ctypes.data
    for t in range(1, length):
        if states >= 4:
            before = first + 8 * states * (t - 1)
            _step(before, first_arc + 8 * states * states * (t - 1), states, before + 8 * states)
        for j in range(states if states < 4 else 0):
            best = -np.inf
            for i in range(states):
                v = value[t - 1, i] + arcs[t - 1, i * states + j]
                best = v if v > best else best
            value[t, j] = best
        for j in range(states):
            value[t, j] += unary[t, j]
    label = 0
    for j in range(1, states):
        label = j if value[length - 1, j] > value[length - 1, label] else label
    labels[length - 1] = label
    for t in range(length - 1, 0, -1):
        best, before = -np.inf, 0
        for i in range(states):
            v = value[t - 1, i] + arcs[t - 1, i * states + label]
            better = v > best
            best = v if better else best
            before = i if better else before
        label = before
        labels[t - 1] = label


@kernel
def _viterbi(unary: Floats, transition: Floats, labels: Ints, start: int, stop: int) -> None:
    _, length, states = unary.shape
    value = np.empty((length, states))
    arcs = transition.reshape(transition.shape[0], transition.shape[1], states * states)
    for b in range(start, stop):
        _path(unary[b], arcs[b if transition.shape[0] > 1 else 0], value, labels[b])


@kernel
def _sums(labels: Ints, arcs: Floats, states: int) -> tuple[float, float]:
    """The sum of the arcs [T-1, S S] between labels [T], and of their finite absolute values."""
    total, size = 0.0, 0.0
    for t in range(arcs.shape[0]):
        arc = arcs[t, labels[t] * states + labels[t + 1]]
        total += arc
        size += abs(arc) if arc > -np.inf else 0.0
    return total, size


@kernel
def _extra_scores(labels: Ints, transition: Floats, out: Floats, start: int, stop: int) -> None:
    states = transition.shape[2]
    arcs = transition.reshape(transition.shape[0], transition.shape[1], states * states)
    for b in range(start, stop):
        for k in range(labels.shape[1]):
            out[0, b, k], out[1, b, k] = _sums(labels[b, k], arcs[b if transition.shape[0] > 1 else 0], states)


def compiled(length: int, states: int) -> Compiled:
    """MAP as C functions."""
    return Compiled(address(_best), address(_describe), (as_count("length", length), as_count("states", states)))


def _best(at: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    length, states = sizes[0], sizes[1]
    labels, arcs = carray(z, length, np.int64), carray(extra, (length - 1, states * states))
    # ``v`` serves for the values first
    _path(carray(at, (length, states)), arcs, carray(v, (length, states)), labels)
    _describe_path(labels, arcs, carray(v, (length, states)), more)


def _describe(scores: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any) -> None:
    length, states = sizes[0], sizes[1]
    labels, arcs = carray(z, length, np.int64), carray(extra, (length - 1, states * states))
    _describe_path(labels, arcs, carray(v, (length, states)), more)


@kernel
def _describe_path(labels: Ints, arcs: Floats, v: Floats, more: Any) -> None:
    v[:] = 0.0
    for t in range(labels.shape[0]):
        v[t, labels[t]] = 1.0
    more[0], more[1] = _sums(labels, arcs, v.shape[1])
