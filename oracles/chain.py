"""Oracles for a first-order linear chain: T labels out of S, scored one by one and in neighbouring pairs.

MAP is Viterbi's algorithm (Viterbi 1967), O(T S^2) a row. The k best keep k ranked prefixes for each label
and merge the S sorted lists of a step by scanning their heads, O(T S k S) a row (k-best Viterbi: Seshadri
and Sundberg 1994). Ties: the lower previous label. transition[b, t, i, j] scores label i at t followed by j
at t + 1; it may be anything that broadcasts to [B, T-1, S, S], and is never copied along a batch dimension
it was broadcast over.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from oracles import _threads
from oracles._arrays import Bools, Floats, Ints, as_count, as_scores, best_first, canonical, real, refuse_nan
from oracles._jit import kernel


def argmax(unary: npt.ArrayLike, transition: npt.ArrayLike) -> Ints:
    """The best labels of each row: unary [B, T, S], transition [B, T-1, S, S] -> [B, T]."""
    nodes, edges = _canonical(unary, transition)
    batch, length, states = nodes.shape
    labels, total = np.empty((batch, length), np.int64), np.empty(batch)
    _threads.by_rows(partial(_viterbi, nodes, edges, labels, total), batch, length * states * (states + 4))
    if not (total < np.inf).all():
        refuse_nan("transition", edges)
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
    refuse_nan("transition", edges)
    k = as_count("k", k)
    batch, length, _ = nodes.shape
    labels, count = np.zeros((batch, k, length), np.int64), np.empty(batch, np.int64)
    _k_best(nodes, edges, labels, count)
    labels, valid, _ = best_first(labels, scores_of(labels, nodes, edges), count)
    return labels, valid


def scores_of(labels: Ints, unary: Floats, transition: Floats) -> Floats:
    """The score of each labelling [B, k, T], with unary and transition as from `_canonical`: [B, k]."""
    batch, _, length = labels.shape
    rows, steps = np.arange(batch)[:, None, None], np.arange(length)
    edges = np.broadcast_to(transition, (batch, *transition.shape[1:]))
    total: Floats = unary[rows, steps, labels].sum(axis=2)
    total += edges[rows, steps[:-1], labels[..., :-1], labels[..., 1:]].sum(axis=2)
    return total


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
    """Unary scores [B, T, S] and transitions [U, T-1, S, S], U = 1 where all rows share them and else B.

    Transitions are not searched for NaN and +inf: they may be large, and `_viterbi` notices as it goes.
    """
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
    return nodes, canonical(edges[:1] if edges.strides[0] == 0 else edges)


@kernel
def _four(value: Floats, arcs: Floats, j: int, out: Floats) -> float:
    """Best of value[i] + arcs[i * states + j] over i, for four labels j; returns what all those arcs sum to.

    Four at a time, so that they share a vector register.
    """
    states = value.shape[0]
    a = b = c = d = -np.inf
    p = q = r = s = 0.0
    for i in range(states):
        own, four = value[i], arcs[i * states + j : i * states + j + 4]
        p, q, r, s = p + four[0], q + four[1], r + four[2], s + four[3]
        x, y, z, w = own + four[0], own + four[1], own + four[2], own + four[3]
        a, b, c, d = x if x > a else a, y if y > b else b, z if z > c else c, w if w > d else d
    out[j], out[j + 1], out[j + 2], out[j + 3] = a, b, c, d
    return p + q + r + s


@kernel
def _viterbi(unary: Floats, transition: Floats, labels: Ints, total: Floats, start: int, stop: int) -> None:
    """Labels of rows start..stop. ``total`` is a sum of a row's transitions: not below +inf if one of them is not.

    No pointers are kept on the way: a label's predecessor is found again from the values, in as many steps as there
    are labels.
    """
    _, length, states = unary.shape
    value, ahead = np.empty((length, states)), np.empty(states)
    arcs = transition.reshape(transition.shape[0], transition.shape[1], states * states)
    for b in range(start, stop):
        u = b if transition.shape[0] > 1 else 0
        total[b] = 0.0
        value[0] = unary[b, 0]
        for t in range(1, length):
            for j in range(0, states - 3, 4):
                total[b] += _four(value[t - 1], arcs[u, t - 1], j, ahead)
            if states % 4 > 0 and states > 4:  # the last four, some of them a second time
                total[b] += _four(value[t - 1], arcs[u, t - 1], states - 4, ahead)
            for j in range(states if states < 4 else 0):
                best = -np.inf
                for i in range(states):
                    arc = arcs[u, t - 1, i * states + j]
                    total[b] += arc
                    v = value[t - 1, i] + arc
                    best = v if v > best else best
                ahead[j] = best
            for j in range(states):
                value[t, j] = ahead[j] + unary[b, t, j]
        label = int(np.argmax(value[length - 1]))
        labels[b, length - 1] = label
        for t in range(length - 1, 0, -1):
            best, before = -np.inf, 0
            for i in range(states):
                v = value[t - 1, i] + arcs[u, t - 1, i * states + label]
                better = v > best
                best = v if better else best
                before = i if better else before
            label = before
            labels[b, t - 1] = label


@kernel
def _extra_scores(labels: Ints, transition: Floats, out: Floats, start: int, stop: int) -> None:
    for b in range(start, stop):
        u = b if transition.shape[0] > 1 else 0
        for k in range(labels.shape[1]):
            total, size = 0.0, 0.0
            for t in range(transition.shape[1]):
                arc = transition[u, t, labels[b, k, t], labels[b, k, t + 1]]
                total += arc
                size += abs(arc) if arc > -np.inf else 0.0
            out[0, b, k], out[1, b, k] = total, size


@kernel
def _merge(lists: Floats, bonus: Floats, out: Floats, code: Ints, head: Ints, front: Floats) -> None:
    """The k best of S decreasing lists [S, k], `bonus[i]` added to list i: `out` values, `code` i * k + rank.

    Lists end at k or at -inf. `head` and `front` are scratch: each list's next rank and its value.
    """
    states, k = lists.shape
    for i in range(states):
        head[i], front[i] = 0, lists[i, 0] + bonus[i]
    for rank in range(k):
        best = 0
        for i in range(1, states):
            if front[i] > front[best]:
                best = i
        out[rank], code[rank] = front[best], best * k + head[best]
        if front[best] == -np.inf:
            break
        head[best] += 1
        front[best] = lists[best, head[best]] + bonus[best] if head[best] < k else -np.inf


@kernel
def _k_best(unary: Floats, transition: Floats, labels: Ints, count: Ints) -> None:
    batch, length, states = unary.shape
    k = labels.shape[1]
    lists, ahead = np.empty((states, k)), np.empty((states, k))
    final, bonus, front = np.empty(k), np.empty(states), np.empty(states)
    back, last = np.empty((length, states, k), np.int64), np.empty(k, np.int64)
    head = np.empty(states, np.int64)
    for b in range(batch):
        u = b if transition.shape[0] > 1 else 0
        lists[:] = -np.inf
        for j in range(states):
            lists[j, 0] = unary[b, 0, j]
        for t in range(1, length):
            for j in range(states):
                for i in range(states):
                    bonus[i] = transition[u, t - 1, i, j] + unary[b, t, j]
                _merge(lists, bonus, ahead[j], back[t, j], head, front)
            lists, ahead = ahead, lists
        bonus[:] = 0.0
        _merge(lists, bonus, final, last, head, front)
        count[b] = 0
        while count[b] < k and final[count[b]] > -np.inf:
            code = last[count[b]]
            for t in range(length - 1, -1, -1):
                label, rank = code // k, code % k
                labels[b, count[b], t] = label
                code = back[t, label, rank]
            count[b] += 1
