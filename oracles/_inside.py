"""Numba kernels of the inside algorithm in log space, and of sampling derivations by it (Baker 1979; Goodman 1998)."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles._arrays import Bools, Floats
from oracles._jit import kernel


@kernel
def weigh(graph: Any, scores: Floats, extra: Floats, weight: Floats) -> None:
    """The score that each edge adds: ``weight`` [E]."""
    _, _, ptr, idx = graph
    parts = scores.shape[0]
    for e in range(len(weight)):
        x = 0.0
        for j in range(ptr[e], ptr[e + 1]):
            x += scores[idx[j]] if idx[j] < parts else extra[idx[j] - parts]
        weight[e] = x


@kernel
def _inside(graph: Any, weight: Floats, value: Floats) -> None:
    """The log of the sum over all derivations of each node, ``value`` [N + 1]."""
    first, tails, _, _ = graph
    nodes = len(value) - 1
    value[nodes] = 0.0
    for v in range(nodes):
        top = -np.inf
        for e in range(first[v], first[v + 1]):
            top = max(top, weight[e] + value[tails[e, 0]] + value[tails[e, 1]])
        total = 0.0
        if top > -np.inf:
            for e in range(first[v], first[v + 1]):
                total += np.exp(weight[e] + value[tails[e, 0]] + value[tails[e, 1]] - top)
        value[v] = top + np.log(total) if top > -np.inf else -np.inf


@kernel
def totals(graph: Any, scores: Floats, extra: Floats, out: Floats, start: int, stop: int) -> None:
    """The log-partition of the root, of each row."""
    nodes = len(graph.first) - 1
    weight, value = np.empty(len(graph.tails)), np.empty(nodes + 1)
    for b in range(start, stop):
        weigh(graph, scores[b], extra[b if len(extra) > 1 else 0], weight)
        _inside(graph, weight, value)
        out[b] = value[nodes - 1]


@kernel
def draw(graph: Any, scores: Floats, extra: Floats, uniform: Floats, out: Bools, start: int, stop: int) -> None:
    """Draw derivations from the root down: an edge in proportion to what is derived through it."""
    first, tails, ptr, idx = graph
    nodes = len(first) - 1
    weight, value, stack = np.empty(len(tails)), np.empty(nodes + 1), np.empty(nodes + 1, np.int64)
    for b in range(start, stop):
        weigh(graph, scores[b], extra[b if len(extra) > 1 else 0], weight)
        _inside(graph, weight, value)
        for c in range(len(uniform)):
            stack[0], size, turn = nodes - 1, 1, 0
            while size > 0:
                size -= 1
                v = stack[size]
                left, chosen = uniform[c, b, turn], -1
                turn += 1
                for e in range(first[v], first[v + 1]):
                    p = np.exp(weight[e] + value[tails[e, 0]] + value[tails[e, 1]] - value[v])
                    if p > 0.0:  # the last possible one takes what rounding leaves
                        chosen = e
                        left -= p
                        if left < 0.0:
                            break
                for j in range(ptr[chosen], ptr[chosen + 1]):
                    out[c, b, idx[j]] = True
                for j in range(2):
                    if tails[chosen, j] < nodes:
                        stack[size] = tails[chosen, j]
                        size += 1
