"""Asking across a row's optimal face: directions orthogonal to the support, and what is found along them.

A direction has one coordinate more, as vertices have when they are lifted to (a, 1). Orthogonal to all lifted vertices
of the support, it has the same product with each of them, so that what the oracle finds instead is either a new vertex
of the face or not optimal.
"""

from __future__ import annotations

import numpy as np

from oracles._jit import inlined_kernel, kernel
from structlat.solvers.kernels.bits import dot, selected, sum_at
from structlat.solvers.kernels.factor import add_vertices, append, back_substitute, forward_substitute
from structlat.solvers.kernels.state import (
    CONTINUES,
    INFEASIBLE,
    ActiveSet,
    Bytes,
    Floats,
    Ints,
    Words,
    uncounted_state,
)
from structlat.solvers.kernels.steps import UNSURE_HIGH, level, put

# How far from optimal a structure may be and still belong to the optimal face, relative to the scale.
FACE = 1e-7


@inlined_kernel
def _width(s: ActiveSet, b: int) -> float:
    width: float = max(FACE * s.unit[b], 4 * level(s, b)[1])
    return width


@kernel
def draw(number: int, out: Floats) -> None:
    """Fill ``out`` with direction ``number``, the same for every row: uniform numbers, each from its place alone.

    SplitMix64 (Steele, Lea and Flood 2014).
    """
    first = np.uint64(number) << np.uint64(32)
    for j in range(out.shape[0]):
        x = (first + np.uint64(j + 1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[j] = np.float64(np.int64(x ^ (x >> np.uint64(31)))) * 2.0**-63


@kernel
def aim(s: ActiveSet, b: int, number: int, parts: int, q: Floats, c: Floats) -> None:
    """Q [64 words + 1] = what of direction ``number`` is orthogonal to the support, as long as the face is wide."""
    n, factor, words, slot = s.size[b], s.factor[b], s.words[b], s.slot[b]
    q[parts:] = 0.0
    draw(number, q[:parts])
    for k in range(n):
        c[k] = sum_at(q, words[slot[k]]) + q[-1]
    forward_substitute(factor, n, c)
    back_substitute(factor, n, c)
    for k in range(n):
        c[k] = -c[k]
        q[-1] += c[k]
    add_vertices(words, slot, n, c, q)
    direction = q[:parts]
    little = 10.0 * _width(s, b) / np.sqrt(max(dot(direction, direction), 1e-300))
    for j in range(parts):
        q[j] *= little


@kernel
def probe(
    s: ActiveSet, lanes: Ints, scores: Floats, number: int, at: Floats, start: int, stop: int
) -> None:  # fmt: skip
    """What the oracle is asked: at[i, 2 k] and at[i, 2 k + 1] are t - mu plus and minus a little of a direction.

    The directions are ``number`` and those after it, at [N, 2 R, d].
    """
    s = uncounted_state(s)
    q, c = np.empty(s.mean.shape[1] + 1), np.empty(s.p.shape[1])
    for i in range(start, stop):
        b = lanes[i]
        mean, own = s.mean[b], scores[s.row[b]]
        for k in range(at.shape[1] // 2):
            aim(s, b, number + k, own.shape[0], q, c)
            for j in range(own.shape[0]):
                slope = own[j] - mean[j]
                at[i, 2 * k, j] = slope + q[j]
                at[i, 2 * k + 1, j] = slope - q[j]


@inlined_kernel
def widen_one(s: ActiveSet, b: int, scores: Floats, v: Words, added: float, size: float, z: Bytes) -> tuple[int, bool]:
    """Take the answer z [bytes] with vertex v [words] in, with p = 0, where it is optimal and new: status, and if so.

    New is what is affinely independent of all before. ``added`` and ``size`` are as in ``load_one``.
    """
    t, used = selected(scores, v)
    t += added
    used += size
    if not t > -np.inf:
        return INFEASIBLE, False
    value = t - s.offset[b]
    base, rounding = level(s, b)
    short = base - (value - sum_at(s.mean[b], v))
    if short > max(FACE * s.unit[b], 4 * rounding) or s.size[b] > scores.shape[0]:
        return CONTINUES, False
    if append(s, b, v, -short) < UNSURE_HIGH:
        return CONTINUES, False
    put(s, b, v, value, used, z, 0.0)
    return CONTINUES, True


@kernel
def widen(
    s: ActiveSet, lanes: Ints, scores: Floats, v: Words, more: Floats, z: Bytes,
    status: Ints, found: Ints, start: int, stop: int,
) -> None:  # fmt: skip
    """``widen_one`` for the answers v [N, R, words], z [N, R, bytes] to ``probe``; ``found`` [N] of them came in."""
    s = uncounted_state(s)
    for i in range(start, stop):
        b = lanes[i]
        found[i], status[i] = 0, CONTINUES
        for r in range(v.shape[1]):
            status[i], new = widen_one(
                s, b, scores[s.row[b]], v[i, r], more[0, i, r], more[1, i, r], z[i, r]
            )  # fmt: skip
            if status[i] != CONTINUES:
                break
            found[i] += new
