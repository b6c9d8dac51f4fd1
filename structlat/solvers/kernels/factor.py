"""The Cholesky factor of one row's support, and the systems that are solved with it.

With A the vertices in the support (one a line), t their scores and mu = A'p (gamma is 1 here), the corrective step
moves p by the solution of

    M dp + tau 1 = r,  1'dp = 1 - 1'p,  where M = A A' + 1 1' = L L' and r = t - A mu.

M is positive definite exactly where the support is affinely independent. A step, not p itself, is solved for: at
the optimum of the support r is constant, so that only the newest structure's entry counts, and small probabilities
keep their digits. Kept beside L is y = L^-1 [1, r], so that a solve costs one back-substitution. Line i of L starts at
i (i + 1) / 2.
"""

from __future__ import annotations

import numpy as np

from oracles._jit import kernel
from structlat.solvers.kernels.bits import add, add_bits, add_exactly, add_four, common, dot, subtract, sum_exactly
from structlat.solvers.kernels.state import EPS, ActiveSet, Floats, Ints, Words


@kernel
def append(s: ActiveSet, b: int, v: Words, residual: float) -> float:
    """Extend L and y by a vertex (its slot is the first free one); return its relative Schur complement.

    Nothing is changed beyond position ``size``, and ``size`` is left as it is: the caller decides.
    """
    n = s.size[b]
    factor, ones, values, words, slot = s.factor[b], s.y[b, 0], s.y[b, 1], s.words[b], s.slot[b]
    line = factor[n * (n + 1) // 2 : (n + 1) * (n + 2) // 2]
    for i in range(n):
        line[i] = 1.0 + common(words[slot[i]], v)
    norm = 1.0 + common(v, v)
    at = 0
    for i in range(n):
        line[i] = (line[i] - dot(factor[at : at + i], line)) / factor[at + i]
        at += i + 1
    solved = line[:n]
    rest = norm - dot(solved, solved)
    root = np.sqrt(max(rest, EPS * norm))
    line[n] = root
    ones[n] = (1.0 - dot(solved, ones)) / root
    values[n] = (residual - dot(solved, values)) / root
    return rest / norm


@kernel
def back_substitute(factor: Floats, n: int, x: Floats) -> None:
    """Solve L' x = x in place, along the lines of L."""
    at = n * (n + 1) // 2
    for i in range(n - 1, -1, -1):
        at -= i + 1
        value = x[i] / factor[at + i]
        x[i] = value
        subtract(factor[at : at + i], value, x)


@kernel
def solve(s: ActiveSet, b: int, step: Floats) -> None:
    """Fill ``step`` with the move of p to the optimum of the support's affine hull (p may become negative there)."""
    n = s.size[b]
    y0, y1, p = s.y[b, 0, :n], s.y[b, 1, :n], s.p[b]
    missing = 1.0
    for i in range(n):
        missing -= p[i]
    tau = (dot(y0, y1) - missing) / dot(y0, y0)
    for i in range(n):
        step[i] = y1[i] - tau * y0[i]
    back_substitute(s.factor[b], n, step)


@kernel
def add_vertices(words: Words, slot: Ints, n: int, weights: Floats, out: Floats) -> None:
    """Add the first n vertices in the order of ``slot``, so much of each, to ``out``."""
    for w in range(words.shape[1]):
        part = out[64 * w : 64 * w + 64]
        i = 0
        while i + 4 <= n:
            add_four(
                words[slot[i], w], words[slot[i + 1], w], words[slot[i + 2], w], words[slot[i + 3], w],
                weights[i], weights[i + 1], weights[i + 2], weights[i + 3], part,
            )  # fmt: skip
            i += 4
        for k in range(i, n):
            add_bits(words[slot[k], w], weights[k], part)


@kernel
def update_mean(s: ActiveSet, b: int) -> None:
    """Make the mean A'p."""
    s.mean[b] = 0.0
    add_vertices(s.words[b], s.slot[b], s.size[b], s.p[b], s.mean[b])


@kernel
def residuals(s: ActiveSet, b: int) -> Floats:
    """Recompute the mean from p and the vertices, and the residuals r less that of the first structure.

    Both are summed with their rounding errors, as iterative refinement wants them: where the support spans the whole
    space, a vertex outside of it is a combination with large coefficients, and so is its slope.
    """
    n, mean, words, slot = s.size[b], s.mean[b], s.words[b], s.slot[b]
    rest, high, low, r = np.zeros(mean.shape[0]), np.empty(64), np.empty(64), np.empty(n)
    mean[:] = 0.0
    for i in range(n):
        for w in range(words.shape[1]):
            start, stop = 64 * w, 64 * w + 64
            add_exactly(words[slot[i], w], s.p[b, i], mean[start:stop], rest[start:stop])
    first = 0.0
    for i in range(n):
        k = slot[i]
        total, error = sum_exactly(words[k], mean, rest, high, low)
        value, error = add(-total, -error, s.t[b, k])
        if i == 0:
            first = value + error
        r[i] = (value - first) + error
    return r


@kernel
def refresh(s: ActiveSet, b: int) -> None:
    """Recompute the mean, and y for the factor as it is: rounding errors that updates have added to them go."""
    r = residuals(s, b)
    factor, values = s.factor[b], s.y[b, 1]
    at = 0
    for i in range(s.size[b]):
        values[i] = (r[i] - dot(factor[at : at + i], values)) / factor[at + i]
        at += i + 1


@kernel
def refactor(s: ActiveSet, b: int) -> None:
    """Recompute the mean, L and y from p and the vertices."""
    r = residuals(s, b)
    s.size[b] = 0
    for i in range(r.shape[0]):
        append(s, b, s.words[b, s.slot[b, i]], r[i])
        s.size[b] = i + 1


@kernel
def delete(s: ActiveSet, b: int, k: int) -> None:
    """Take the structure at position k out: Givens rotations make L triangular again and carry y along."""
    n = s.size[b]
    factor, y, slot, p = s.factor[b], s.y[b], s.slot[b], s.p[b]
    freed = slot[k]
    beyond = np.empty(n)  # the entry of each line that is right of the diagonal once the lines have moved up
    for i in range(k, n - 1):
        slot[i] = slot[i + 1]
        p[i] = p[i + 1]
        to, of = i * (i + 1) // 2, (i + 1) * (i + 2) // 2
        for j in range(i + 1):
            factor[to + j] = factor[of + j]
        beyond[i] = factor[of + i + 1]
    slot[n - 1] = freed
    p[n - 1] = 0.0
    for c in range(k, n - 1):
        at = c * (c + 1) // 2 + c
        a, d = factor[at], beyond[c]
        r = np.sqrt(a * a + d * d)
        cos, sin = a / r, d / r
        factor[at] = r
        for i in range(c + 1, n - 1):
            at += i
            u, w = factor[at], factor[at + 1]
            factor[at] = cos * u + sin * w
            factor[at + 1] = cos * w - sin * u
        for i in range(2):
            u, w = y[i, c], y[i, c + 1]
            y[i, c] = cos * u + sin * w
            y[i, c + 1] = cos * w - sin * u
    s.size[b] = n - 1
