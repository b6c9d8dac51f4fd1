"""Asking across a row's optimal face: directions orthogonal to the support, and what is found along them.

A direction has one coordinate more, as vertices have when they are lifted to (a, 1). Orthogonal to all lifted vertices
of the support, it has the same product with each of them, so that what the oracle finds instead is either a new vertex
of the face or not optimal.
"""

from __future__ import annotations

import numpy as np

from oracles._jit import kernel
from structlat.solvers.kernels.bits import dot, selected, sum_at
from structlat.solvers.kernels.factor import add_vertices, append, back_substitute
from structlat.solvers.kernels.state import CONTINUES, INFEASIBLE, ActiveSet, Bytes, Floats, Ints, Words
from structlat.solvers.kernels.steps import UNSURE_HIGH, level, put

# How far from optimal a structure may be and still belong to the optimal face, relative to the scale.
FACE = 1e-7


@kernel
def _width(s: ActiveSet, b: int) -> float:
    width: float = max(FACE * s.unit[b], 4 * level(s, b)[1])
    return width


@kernel
def _aim(s: ActiveSet, b: int, q: Floats, c: Floats) -> None:
    """Take from q [64 words + 1] what is not orthogonal to the support."""
    n, factor, words, slot = s.size[b], s.factor[b], s.words[b], s.slot[b]
    at = 0
    for k in range(n):
        c[k] = (sum_at(q, words[slot[k]]) + q[-1] - dot(factor[at : at + k], c)) / factor[at + k]
        at += k + 1
    back_substitute(factor, n, c)
    c[:n] *= -1.0
    add_vertices(words, slot, n, c, q)
    for k in range(n):
        q[-1] += c[k]


@kernel
def probe(s: ActiveSet, lanes: Ints, scores: Floats, noise: Floats, at: Floats, start: int, stop: int) -> None:
    """What the oracle is asked: at[i, 2 k] and at[i, 2 k + 1] are t - mu plus and minus a little of noise[k].

    Of the noise [R, d] only what is orthogonal to the support.
    """
    q, c = np.empty(s.mean.shape[1] + 1), np.empty(s.p.shape[1])
    for i in range(start, stop):
        b = lanes[i]
        mean, own, width = s.mean[b], scores[s.row[b]], _width(s, b)
        for k in range(noise.shape[0]):
            q[:] = 0.0
            q[: own.shape[0]] = noise[k]
            _aim(s, b, q, c)
            direction = q[: own.shape[0]]
            little = 10.0 * width / np.sqrt(max(dot(direction, direction), 1e-300))
            for j in range(own.shape[0]):
                slope = own[j] - mean[j]
                at[i, 2 * k, j] = slope + little * direction[j]
                at[i, 2 * k + 1, j] = slope - little * direction[j]


@kernel
def widen(
    s: ActiveSet, lanes: Ints, scores: Floats, v: Words, more: Floats, z: Bytes,
    status: Ints, found: Ints, start: int, stop: int,
) -> None:  # fmt: skip
    """Take the answers v [N, R, words], z [N, R, bytes] to ``probe`` in, with p = 0, where they are optimal and new.

    New is what is affinely independent of all before. ``found`` [N] counts.
    """
    for i in range(start, stop):
        b = lanes[i]
        own = scores[s.row[b]]
        base, width = level(s, b)[0], _width(s, b)
        found[i], status[i] = 0, CONTINUES
        for r in range(v.shape[1]):
            t, used = selected(own, v[i, r])
            t += more[0, i, r]
            used += more[1, i, r]
            if not t > -np.inf:
                status[i] = INFEASIBLE
                break
            value = t - s.offset[b]
            short = base - (value - sum_at(s.mean[b], v[i, r]))
            if short > width or s.size[b] > own.shape[0] or append(s, b, v[i, r], -short) < UNSURE_HIGH:
                continue
            put(s, b, v[i, r], value, used, z[i, r], 0.0)
            found[i] += 1
