"""Asking across a row's optimal face: directions orthogonal to the support, and what is found along them.

A direction is kept with one coordinate more, as vertices are when they are lifted to (a, 1): orthogonal to all lifted
vertices of the support, it has the same product with each of them, so that what the oracle finds instead is
either a new vertex of the face or not optimal.
"""

from __future__ import annotations

import numpy as np

from oracles._jit import kernel
from structlat.solvers.kernels.bits import add_bits, dot, pack, selected, subtract, sum_at
from structlat.solvers.kernels.factor import append, back_substitute
from structlat.solvers.kernels.state import CONTINUES, INFEASIBLE, NO_VERTEX, WORD, ActiveSet, Bytes, Floats, Ints
from structlat.solvers.kernels.steps import UNSURE_HIGH, level, put

# How far from optimal a structure may be and still belong to the optimal face, relative to the scale.
FACE = 1e-7


@kernel
def _width(s: ActiveSet, b: int) -> float:
    width: float = max(FACE * s.unit[b], 4 * level(s, b)[1])
    return width


@kernel
def _remove(s: ActiveSet, b: int, n: int, c: Floats, q: Floats) -> None:
    """Take sum_k c_k (a_k, 1), over the first n of the support, away from q."""
    words, slot = s.words[b], s.slot[b]
    for w in range(words.shape[1]):
        part = q[WORD * w : WORD * (w + 1)]
        for k in range(n):
            add_bits(words[slot[k], w], -c[k], part)
    for k in range(n):
        q[-1] -= c[k]


@kernel
def aim(s: ActiveSet, lanes: Ints, noise: Floats, which: int, q: Floats, start: int, stop: int) -> None:
    """q[b, which] = the part of ``noise`` [d] that is orthogonal to the support of each lane b."""
    c = np.empty(s.p.shape[1])
    for i in range(start, stop):
        b = lanes[i]
        n, own = s.size[b], q[b, which]
        own[:] = 0.0
        own[: noise.shape[0]] = noise
        for _ in range(2):  # the second pass removes what rounding left
            at = 0
            factor = s.factor[b]
            for k in range(n):
                product = sum_at(own, s.words[b, s.slot[b, k]]) + own[-1]
                c[k] = (product - dot(factor[at : at + k], c)) / factor[at + k]
                at += k + 1
            back_substitute(factor, n, c)
            _remove(s, b, n, c, own)


@kernel
def probe(s: ActiveSet, lanes: Ints, scores: Floats, q: Floats, pairs: int, at: Floats, start: int, stop: int) -> None:
    """What the oracle is asked: at[i, 2 k] and at[i, 2 k + 1] are t - mu plus and minus a little of direction k."""
    for i in range(start, stop):
        b = lanes[i]
        mean, own, width = s.mean[b], scores[s.row[b]], _width(s, b)
        for k in range(pairs):
            direction = q[b, k, : own.shape[0]]
            little = 10.0 * width / np.sqrt(max(dot(direction, direction), 1e-300))
            for j in range(own.shape[0]):
                slope = own[j] - mean[j]
                at[i, 2 * k, j] = slope + little * direction[j]
                at[i, 2 * k + 1, j] = slope - little * direction[j]


@kernel
def widen(
    s: ActiveSet, lanes: Ints, scores: Floats, q: Floats, v: Floats, more: Floats, z: Bytes,
    status: Ints, found: Ints, start: int, stop: int,
) -> None:  # fmt: skip
    """Take the answers v [N, R, d], z [N, R, bytes] to ``probe`` in, with p = 0, where they are optimal and new.

    New is what is affinely independent of all before; the directions are made orthogonal to it. ``found`` [N] counts.
    """
    words, c, u = np.empty(s.words.shape[2], np.uint64), np.empty(s.p.shape[1]), np.empty(q.shape[2])
    for i in range(start, stop):
        b = lanes[i]
        own = scores[s.row[b]]
        base, width = level(s, b)[0], _width(s, b)
        found[i], status[i] = 0, CONTINUES
        for r in range(v.shape[1]):
            if not pack(v[i, r], words):
                status[i] = NO_VERTEX
                break
            t, used = selected(own, v[i, r])
            t += more[0, i, r]
            used += more[1, i, r]
            if not t > -np.inf:
                status[i] = INFEASIBLE
                break
            value = t - s.offset[b]
            short = base - (value - sum_at(s.mean[b], words))
            if short > width or s.size[b] > own.shape[0] or append(s, b, words, -short) < UNSURE_HIGH:
                continue
            n = s.size[b]
            line = n * (n + 1) // 2
            c[:n] = s.factor[b, line : line + n]
            back_substitute(s.factor[b], n, c)
            u[:] = 0.0
            u[: own.shape[0]] = v[i, r]
            u[-1] = 1.0
            _remove(s, b, n, c, u)
            square = dot(u, u)
            for k in range(q.shape[1]):
                subtract(u, dot(u, q[b, k]) / square, q[b, k])
            put(s, b, words, value, used, z[i, r], 0.0)
            found[i] += 1
