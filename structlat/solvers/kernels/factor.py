"""The Cholesky factor of one row's support, and the systems that are solved with it.

With A the vertices in the support (one a line), t their scores and mu = A'p (gamma is 1 here), the corrective step
moves p by the solution of

    M dp + tau 1 = r,  1'dp = 1 - 1'p,  where M = A A' + 1 1' = L L' and r = t - A mu.

M is positive definite exactly where the support is affinely independent. A step, not p itself, is solved for: at
the optimum of the support r is constant, so that only the newest structure's entry counts, and small probabilities
keep their digits. Kept beside L is y = L^-1 [1, r], so that a solve costs one back-substitution. Line i of L starts at
i (i + 1) / 2; in place of its diagonal stand the reciprocals. Systems are solved four lines at a time: their products
do not wait for each other then.
"""

from __future__ import annotations

import numpy as np

from oracles._jit import inlined_kernel, kernel, loose_kernel
from structlat.solvers.kernels.bits import add_bits, add_four, common, difference, dot, on_grid, subtract, sum_at
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
    forward_substitute(factor, n, line)
    solved = line[:n]
    rest = norm - dot(solved, solved)
    root = np.sqrt(max(rest, EPS * norm))
    line[n] = 1.0 / root
    ones[n] = (1.0 - dot(solved, ones)) / root
    values[n] = (residual - dot(solved, values)) / root
    return rest / norm


@loose_kernel
def _four_dots(factor: Floats, i: int, x: Floats) -> tuple[float, float, float, float]:
    """The inner products of lines i to i + 3, up to column i, with x."""
    first = i * (i + 1) // 2
    second, third, fourth = first + i + 1, first + 2 * i + 3, first + 3 * i + 6
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for j in range(i):
        a += factor[first + j] * x[j]
        b += factor[second + j] * x[j]
        c += factor[third + j] * x[j]
        d += factor[fourth + j] * x[j]
    return a, b, c, d


@loose_kernel
def _take_four(factor: Floats, i: int, x: Floats) -> None:
    """Take x[i] to x[i + 3] times lines i to i + 3, up to column i, away from x."""
    first = i * (i + 1) // 2
    second, third, fourth = first + i + 1, first + 2 * i + 3, first + 3 * i + 6
    a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
    for j in range(i):
        x[j] -= (a * factor[first + j] + b * factor[second + j]) + (c * factor[third + j] + d * factor[fourth + j])


@kernel
def forward_substitute(factor: Floats, n: int, x: Floats) -> None:
    """Solve L x = x in place."""
    i = 0
    while i + 4 <= n:
        a, b, c, d = _four_dots(factor, i, x)
        at = i * (i + 1) // 2 + i
        a = (x[i] - a) * factor[at]
        at += i + 1
        b = (x[i + 1] - b - factor[at] * a) * factor[at + 1]
        at += i + 2
        c = (x[i + 2] - c - factor[at] * a - factor[at + 1] * b) * factor[at + 2]
        at += i + 3
        d = (x[i + 3] - d - factor[at] * a - factor[at + 1] * b - factor[at + 2] * c) * factor[at + 3]
        x[i], x[i + 1], x[i + 2], x[i + 3] = a, b, c, d
        i += 4
    while i < n:
        at = i * (i + 1) // 2
        x[i] = (x[i] - dot(factor[at : at + i], x)) * factor[at + i]
        i += 1


@kernel
def back_substitute(factor: Floats, n: int, x: Floats) -> None:
    """Solve L' x = x in place, along the lines of L."""
    i = n
    while i % 4 != 0:
        i -= 1
        at = i * (i + 1) // 2
        x[i] *= factor[at + i]
        subtract(factor[at : at + i], x[i], x)
    while i > 0:
        i -= 4
        first = i * (i + 1) // 2 + i
        second, third, fourth = first + i + 1, first + 2 * i + 3, first + 3 * i + 6
        d = x[i + 3] * factor[fourth + 3]
        c = (x[i + 2] - factor[fourth + 2] * d) * factor[third + 2]
        b = (x[i + 1] - factor[fourth + 1] * d - factor[third + 1] * c) * factor[second + 1]
        a = (x[i] - factor[fourth] * d - factor[third] * c - factor[second] * b) * factor[first]
        x[i], x[i + 1], x[i + 2], x[i + 3] = a, b, c, d
        _take_four(factor, i, x)


@inlined_kernel
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


@inlined_kernel
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


@inlined_kernel
def update_mean(s: ActiveSet, b: int) -> None:
    """Make the mean A'p."""
    s.mean[b] = 0.0
    add_vertices(s.words[b], s.slot[b], s.size[b], s.p[b], s.mean[b])


@kernel
def residuals(s: ActiveSet, b: int) -> Floats:
    """Recompute the mean from p and the vertices, and the residuals r less that of the first structure.

    Iterative refinement wants them without rounding errors: where the support spans the whole space, a vertex outside
    of it is a combination with large coefficients, and so is its slope. What is summed is split into multiples of
    2^-40, whose sums are exact, and a rest, whose sums are wrong by 2^-90.
    """
    n, mean, words, slot = s.size[b], s.mean[b], s.words[b], s.slot[b]
    rest, r = np.zeros(mean.shape[0]), np.empty(n)
    mean[:] = 0.0
    for i in range(n):
        high = on_grid(s.p[b, i])
        for w in range(words.shape[1]):
            start, stop = 64 * w, 64 * w + 64
            add_bits(words[slot[i], w], high, mean[start:stop])
            add_bits(words[slot[i], w], s.p[b, i] - high, rest[start:stop])
    first, small = 0.0, 0.0
    for i in range(n):
        v, t = words[slot[i]], s.t[b, slot[i]]
        value, error = difference(t, sum_at(mean, v))
        error -= sum_at(rest, v)
        if i == 0:
            first, small = value, error
        r[i] = (value - first) + (error - small)
    for j in range(mean.shape[0]):
        mean[j] += rest[j]
    return r


@kernel
def refresh(s: ActiveSet, b: int) -> None:
    """Recompute the mean, and y for the factor as it is: rounding errors that updates have added to them go."""
    r = residuals(s, b)
    n = r.shape[0]
    s.y[b, 1, :n] = r
    forward_substitute(s.factor[b], n, s.y[b, 1])


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
        # the lines below k had their diagonal, a reciprocal, where ``beyond`` is now
        a, d = factor[at], 1.0 / beyond[c]
        r = np.sqrt(a * a + d * d)
        cos, sin = a / r, d / r
        factor[at] = 1.0 / r
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
