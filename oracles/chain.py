"""Oracles for a first-order linear chain: T labels out of S, scored one by one and in neighbouring pairs.

MAP is Viterbi's algorithm (Viterbi 1967), O(T S^2) a row. The k best keep k ranked prefixes for each label
and merge the S sorted lists of a step by scanning their heads, O(T S k S) a row (k-best Viterbi: Seshadri
and Sundberg 1994). Ties: the lower previous label. transition[b, t, i, j] scores label i at t followed by j
at t + 1; it may be anything that broadcasts to [B, T-1, S, S], and is never copied along a batch dimension
it was broadcast over.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from oracles._arrays import Bools, Floats, Ints, as_count, as_scores, best_first, canonical, real, refuse_nan


def argmax(unary: npt.ArrayLike, transition: npt.ArrayLike) -> Ints:
    """The best labels of each row: unary [B, T, S], transition [B, T-1, S, S] -> [B, T]."""
    nodes, edges = _canonical(unary, transition)
    labels = np.zeros(nodes.shape[:2], np.int64)
    _viterbi(nodes, edges, labels)
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


@numba.njit(cache=True, nogil=True)
def _viterbi(unary: Floats, transition: Floats, labels: Ints) -> None:
    batch, length, states = unary.shape
    value, ahead = np.empty(states), np.empty(states)
    back = np.zeros((length, states), np.int64)
    for b in range(batch):
        u = b if transition.shape[0] > 1 else 0
        value[:] = unary[b, 0]
        for t in range(1, length):
            ahead[:] = -np.inf
            back[t] = 0
            for i in range(states):
                for j in range(states):
                    v = value[i] + transition[u, t - 1, i, j]
                    if v > ahead[j]:
                        ahead[j] = v
                        back[t, j] = i
            for j in range(states):
                value[j] = ahead[j] + unary[b, t, j]
        label = np.argmax(value)
        for t in range(length - 1, -1, -1):
            labels[b, t] = label
            label = back[t, label]


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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
