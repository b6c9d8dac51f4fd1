"""Numba kernels of the active-set solver: one row's support, its Cholesky factor, and the steps that change them.

With A the vertices in the support (one a line), t their scores and mu = A'p (gamma is 1 here), the corrective step
moves p by the solution of

    M dp + tau 1 = r,  1'dp = 1 - 1'p,  where M = A A' + 1 1' = L L' and r = t - A mu.

M is positive definite exactly where the support is affinely independent. A step, not p itself, is solved for: at
the optimum of the support r is constant, so that only the newest structure's entry counts, and small probabilities
keep their digits. Kept beside L is y = L^-1 [1, r], so that a solve costs one back-substitution. A structure keeps
its *slot* in ``vertices``, ``t`` and ``used`` for as long as it is in the support; ``slot`` lists the slots in the
order of the factor's rows, then those that are free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EPS = 2.0**-52
# The oracle sees scores times 1 + TIE: ties among fitted parts go to the larger score, not to rounding noise.
TIE = 1e-12
# Schur complement over |a|^2 + 1 under which a vertex lies in the affine hull of the support.
DEPENDENT = 1e-10
# Between these the factor is recomputed before that is decided.
UNSURE_LOW, UNSURE_HIGH = 1e-12, 1e-8
# How far from optimal a structure may be and still belong to the optimal face, relative to the scale.
FACE = 1e-7

CONTINUES, CONVERGED, STALLED = 0, 1, 2


class ActiveSet(NamedTuple):
    """The supports of a batch of B rows, with room for ``capacity`` structures in each."""

    vertices: Floats  # [B, capacity, d], by slot
    t: Floats  # [B, capacity], by slot: scores less those of the row's first structure
    used: Floats  # [B, capacity], by slot: the sum of the absolute scores that the structure uses
    slot: Ints  # [B, capacity], by position, then the free slots
    p: Floats  # [B, capacity], by position
    factor: Floats  # [B, capacity, capacity], L
    y: Floats  # [B, 2, capacity], L^-1 [1, r]
    size: Ints  # [B]
    stuck: Floats  # [B], the gap when rounding errors were last removed without a structure coming in since; else inf
    mean: Floats  # [B, d]
    offset: Floats  # [B], the score of the row's first structure
    largest: Floats  # [B], the largest |score| of a structure seen
    norm: Floats  # [B], the largest |a|^2 of a structure seen
    unit: Floats  # [B], the scale at which scores differ: the largest |score| of a part, at most 1 (1 where all are 0)


@njit(cache=True, nogil=True)
def _gram(vertices: Floats, slot: Ints, size: int, v: Floats, out: Floats) -> None:
    """Fill ``out`` with a line of M: inner products of ``v`` with the support, plus one."""
    for i in range(size):
        a = vertices[slot[i]]
        total = 1.0
        for j in range(v.shape[0]):
            total += a[j] * v[j]
        out[i] = total


@njit(cache=True, nogil=True)
def _append(s: ActiveSet, b: int, v: Floats, residual: float) -> float:
    """Extend L and y by a vertex (its slot is the first free one); return its relative Schur complement.

    Nothing is changed beyond position ``size``, and ``size`` is left as it is: the caller decides.
    """
    n = s.size[b]
    factor, y = s.factor[b], s.y[b]
    line = factor[n]
    _gram(s.vertices[b], s.slot[b], n, v, line)
    norm = 1.0
    for j in range(v.shape[0]):
        norm += v[j] * v[j]
    rest, one, value = norm, 1.0, residual
    for i in range(n):
        x = line[i]
        for j in range(i):
            x -= factor[i, j] * line[j]
        x /= factor[i, i]
        line[i] = x
        rest -= x * x
        one -= x * y[0, i]
        value -= x * y[1, i]
    root = np.sqrt(max(rest, EPS * norm))
    line[n] = root
    y[0, n] = one / root
    y[1, n] = value / root
    return rest / norm


@njit(cache=True, nogil=True)
def _update_mean(s: ActiveSet, b: int) -> None:
    mean = s.mean[b]
    mean[:] = 0.0
    for i in range(s.size[b]):
        a = s.vertices[b, s.slot[b, i]]
        weight = s.p[b, i]
        for j in range(mean.shape[0]):
            mean[j] += weight * a[j]


@njit(cache=True, nogil=True)
def _residual(s: ActiveSet, b: int, v: Floats, t: float) -> float:
    """The slope of the objective towards a structure, t - <v, mu>."""
    value = t
    for j in range(v.shape[0]):
        value -= v[j] * s.mean[b, j]
    return value


@njit(cache=True, nogil=True)
def _level(s: ActiveSet, b: int) -> float:
    """The slope at the mean itself: <p, r>, which a structure has to exceed."""
    value = 0.0
    for j in range(s.mean.shape[1]):
        value -= s.mean[b, j] * s.mean[b, j]
    for i in range(s.size[b]):
        value += s.p[b, i] * s.t[b, s.slot[b, i]]
    return value


@njit(cache=True, nogil=True)
def _sum(high: float, low: float, x: float) -> tuple[float, float]:
    """Add x to high + low, keeping in ``low`` what rounding takes from ``high``."""
    total = high + x
    low += (high - total) + x if abs(high) >= abs(x) else (x - total) + high
    return total, low


@njit(cache=True, nogil=True)
def _refactor(s: ActiveSet, b: int) -> None:
    """Recompute the mean, L and y from p and the vertices: rounding errors that updates have added go.

    The residuals are summed with their rounding errors (Neumaier), as iterative refinement wants them: where the
    support spans the whole space, a vertex outside of it is a combination with large coefficients, and so is its slope.
    """
    n, mean = s.size[b], s.mean[b]
    rest = np.zeros(mean.shape[0])
    mean[:] = 0.0
    for i in range(n):
        v, weight = s.vertices[b, s.slot[b, i]], s.p[b, i]
        for j in range(mean.shape[0]):
            mean[j], rest[j] = _sum(mean[j], rest[j], weight * v[j])
    first = 0.0
    s.size[b] = 0
    for i in range(n):
        k = s.slot[b, i]
        v = s.vertices[b, k]
        high, low = s.t[b, k], 0.0
        for j in range(mean.shape[0]):
            high, low = _sum(high, low, -v[j] * mean[j])
            low -= v[j] * rest[j]
        if i == 0:
            first = high + low
        _append(s, b, v, (high - first) + low)
        s.size[b] = i + 1


@njit(cache=True, nogil=True)
def _back_substitute(factor: Floats, n: int, x: Floats) -> None:
    """Solve L' x = x in place, along the lines of L."""
    for i in range(n - 1, -1, -1):
        x[i] /= factor[i, i]
        value = x[i]
        for j in range(i):
            x[j] -= factor[i, j] * value


@njit(cache=True, nogil=True)
def _solve(s: ActiveSet, b: int, step: Floats) -> None:
    """Fill ``step`` with the move of p to the optimum of the support's affine hull (p may become negative there)."""
    n = s.size[b]
    y, p = s.y[b], s.p[b]
    ones, cross, missing = 0.0, 0.0, 1.0
    for i in range(n):
        ones += y[0, i] * y[0, i]
        cross += y[0, i] * y[1, i]
        missing -= p[i]
    tau = (cross - missing) / ones
    for i in range(n):
        step[i] = y[1, i] - tau * y[0, i]
    _back_substitute(s.factor[b], n, step)


@njit(cache=True, nogil=True)
def _delete(s: ActiveSet, b: int, k: int) -> None:
    """Take the structure at position k out: Givens rotations make L triangular again and carry y along."""
    n = s.size[b]
    factor, y, slot, p = s.factor[b], s.y[b], s.slot[b], s.p[b]
    freed = slot[k]
    for i in range(k, n - 1):
        slot[i] = slot[i + 1]
        p[i] = p[i + 1]
        factor[i, : i + 2] = factor[i + 1, : i + 2]
    slot[n - 1] = freed
    p[n - 1] = 0.0
    for c in range(k, n - 1):
        a, d = factor[c, c], factor[c, c + 1]
        r = np.hypot(a, d)
        cos, sin = a / r, d / r
        for i in range(c, n - 1):
            u, w = factor[i, c], factor[i, c + 1]
            factor[i, c] = cos * u + sin * w
            factor[i, c + 1] = cos * w - sin * u
        for i in range(2):
            u, w = y[i, c], y[i, c + 1]
            y[i, c] = cos * u + sin * w
            y[i, c + 1] = cos * w - sin * u
    s.size[b] = n - 1


@njit(cache=True, nogil=True)
def _correct(s: ActiveSet, b: int, new: int, step: Floats) -> bool:
    """Move p to the optimum of the support's affine hull, dropping what reaches zero on the way.

    ``new`` is the position of a structure that has just entered, or -1. Returns False where it had to leave at
    once, on a fresh factor: rounding, not the problem, then decides.
    """
    p, y = s.p[b], s.y[b]
    refactored = False
    while True:
        n = s.size[b]
        _solve(s, b, step)
        length, block = 1.0, -1
        for i in range(n):
            if p[i] + step[i] <= 0.0:
                ratio = min(p[i] / -step[i], 1.0) if p[i] > 0.0 else 0.0
                if block < 0 or ratio < length:
                    length, block = ratio, i
        if block == new and block >= 0 and length == 0.0 and not refactored:
            _refactor(s, b)
            refactored = True
            continue
        for i in range(n):
            p[i] = max(p[i] + length * step[i], 0.0)
        if block < 0:
            y[1, :n] = 0.0
            return True
        for i in range(n):
            y[1, i] *= 1.0 - length
        _delete(s, b, block)
        if block == new and length == 0.0:
            return False
        if block < new:
            new -= 1


@njit(cache=True, nogil=True)
def _exchange(s: ActiveSet, b: int, v: Floats, t: float) -> bool:
    """Let a structure in that depends affinely on the support: p moves along the null direction to the boundary.

    The mean stays; the objective grows by the score alone. ``factor[size]`` holds L^-1 (A v + 1), from ``_append``.
    Returns whether there was anything to gain. A structure leaves; v has to be appended by the caller.
    """
    n = s.size[b]
    p, slot = s.p[b], s.slot[b]
    c = s.factor[b, n, :n].copy()
    _back_substitute(s.factor[b], n, c)
    gain, scale = t, abs(t)
    for i in range(n):
        gain -= c[i] * s.t[b, slot[i]]
        scale += abs(c[i] * s.t[b, slot[i]])
    if gain <= 8 * EPS * (scale + s.largest[b]):
        return False
    step, block = np.inf, -1
    for i in range(n):
        if c[i] > 1e-9 and p[i] < step * c[i]:
            step, block = p[i] / c[i], i
    for i in range(n):
        p[i] = max(p[i] - step * c[i], 0.0)
    _delete(s, b, block)
    s.p[b, n - 1] = step
    return True


@njit(cache=True, nogil=True)
def _position(s: ActiveSet, b: int, v: Floats, t: float) -> int:
    """Where the structure with vertex ``v`` and score ``t`` is in the support, or -1."""
    for i in range(s.size[b]):
        k = s.slot[b, i]
        a = s.vertices[b, k]
        same = True
        for j in range(v.shape[0]):
            if a[j] != v[j]:
                same = False
                break
        # with extra parts two structures may share a vertex: their scores tell them apart
        if same and abs(s.t[b, k] - t) <= 8 * EPS * (s.largest[b] + s.used[b, k]):
            return i
    return -1


@njit(cache=True, nogil=True)
def _tolerance(s: ActiveSet, b: int, tol: float) -> float:
    """Relative to the scale of the problem, and never below what rounding leaves."""
    square = 0.0
    for j in range(s.mean.shape[1]):
        square += s.mean[b, j] * s.mean[b, j]
    used = 0.0
    for i in range(s.size[b]):
        used += s.p[b, i] * s.used[b, s.slot[b, i]]
    bound: float = max(tol * min(s.largest[b], s.norm[b]), 8 * EPS * (used + square))
    return bound


@njit(cache=True, nogil=True)
def _see(s: ActiveSet, b: int, v: Floats, t: float) -> None:
    """Keep the scale of the problem up to date."""
    norm = 0.0
    for j in range(v.shape[0]):
        norm += v[j] * v[j]
    s.largest[b] = max(s.largest[b], abs(t))
    s.norm[b] = max(s.norm[b], norm)


@njit(cache=True, nogil=True)
def load(s: ActiveSet, v: Floats, t: Floats, used: Floats, p: Floats, move: bool) -> None:
    """Start from p [B, K] on the structures v [B, K, d] with scores t [B, K], slot k being that of structure k.

    Infeasible structures (t = -inf) go; p is scaled to sum to one, and is 1 on the first where nothing is left. What
    depends affinely on the structures before it moves p to the boundary, never down; then, with ``move``, the
    corrective step.
    """
    q = np.empty(s.p.shape[1])
    for b in range(v.shape[0]):
        s.offset[b] = t[b, 0]
        total = 0.0
        for k in range(v.shape[1]):
            if t[b, k] > -np.inf:
                _see(s, b, v[b, k], t[b, k])
                total += p[b, k]
        for i in range(s.slot.shape[1]):
            s.slot[b, i] = i
        for k in range(v.shape[1]):
            weight = (1.0 if k == 0 else 0.0) if total == 0.0 else p[b, k] / total
            if weight > 0.0 and t[b, k] > -np.inf:
                _load_one(s, b, v[b, k], t[b, k] - s.offset[b], used[b, k], weight, k)
        _refactor(s, b)
        if move:
            _correct(s, b, -1, q)
            _update_mean(s, b)


@njit(cache=True, nogil=True)
def _load_one(s: ActiveSet, b: int, v: Floats, t: float, used: float, weight: float, k: int) -> None:
    known = _position(s, b, v, t)
    if known >= 0:
        s.p[b, known] += weight
        return
    n = s.size[b]
    if _append(s, b, v, 0.0) < UNSURE_HIGH:
        c = s.factor[b, n, :n].copy()
        _back_substitute(s.factor[b], n, c)
        gain = t
        for i in range(n):
            gain -= c[i] * s.t[b, s.slot[b, i]]
        # p of the structure grows where that gains, and shrinks elsewhere, until one of them has none
        sign = 1.0 if gain > 0.0 else -1.0
        step, block = np.inf if gain > 0.0 else weight, -1
        for i in range(n):
            if sign * c[i] > 1e-9 and s.p[b, i] < step * sign * c[i]:
                step, block = s.p[b, i] / (sign * c[i]), i
        for i in range(n):
            s.p[b, i] = max(s.p[b, i] - sign * step * c[i], 0.0)
        if block < 0:
            return
        _delete(s, b, block)
        weight += sign * step
        n -= 1
        _append(s, b, v, 0.0)
    i = n
    while s.slot[b, i] != k:
        i += 1
    s.slot[b, i], s.slot[b, n] = s.slot[b, n], k
    s.vertices[b, k] = v
    s.t[b, k] = t
    s.used[b, k] = used
    s.p[b, n] = weight
    s.size[b] = n + 1


@njit(cache=True, nogil=True)
def gradient(s: ActiveSet, rows: Ints, t: Floats, out: Floats) -> None:
    """What the oracle is asked: out[i] = (1 + TIE) t - mu for row rows[i]; -inf stays."""
    for i in range(rows.shape[0]):
        b = rows[i]
        for j in range(t.shape[1]):
            out[i, j] = (1.0 + TIE) * t[b, j] - s.mean[b, j]


@njit(cache=True, nogil=True)
def advance(
    s: ActiveSet, rows: Ints, v: Floats, t: Floats, used: Floats, tol: float, gap: Floats, status: Ints, entered: Ints
) -> None:
    """One round for the rows [N], whose oracle answered v [N, d] with scores t [N].

    Writes ``gap`` [N], ``status`` [N], and ``entered`` [N]: the slot that the answer now has, or -1. There has to be
    room for one structure more in every row.
    """
    q = np.empty(s.p.shape[1])
    for i in range(rows.shape[0]):
        b = rows[i]
        entered[i] = -1
        _see(s, b, v[i], t[i])
        value = t[i] - s.offset[b]
        gain = _residual(s, b, v[i], value) - _level(s, b)
        gap[i] = max(gain, 0.0)
        if gain < -(100 * TIE * s.largest[b] + 16 * _tolerance(s, b, 0.0)):
            # worse than what the oracle said before: it does not maximise, and nothing is certified
            gap[i], status[i] = np.inf, STALLED
            continue
        if gap[i] <= _tolerance(s, b, tol):
            status[i] = CONVERGED
            continue
        if _position(s, b, v[i], value) < 0 and _enter(s, b, v[i], value, used[i], gain, entered, i, q):
            s.stuck[b] = np.inf
            status[i] = CONTINUES
            continue
        # What is in the support, or leaves it at once, cannot be better than the support's optimum, but for rounding
        # errors in it: they are removed, as long as that helps.
        status[i] = CONTINUES if gap[i] < 0.5 * s.stuck[b] else STALLED
        s.stuck[b] = gap[i]
        _refactor(s, b)
        _correct(s, b, -1, q)
        _update_mean(s, b)


@njit(cache=True, nogil=True)
def _enter(
    s: ActiveSet, b: int, v: Floats, t: float, used: float, gain: float, entered: Ints, i: int, q: Floats
) -> bool:
    """Let a structure in and move p; returns False where it cannot stay. ``entered[i]`` says which slot it has."""
    ratio = _append(s, b, v, gain)
    if UNSURE_LOW < ratio < UNSURE_HIGH:
        _refactor(s, b)
        ratio = _append(s, b, v, gain)
    if ratio < DEPENDENT:
        if not _exchange(s, b, v, t):
            return False
        _append(s, b, v, gain)
    else:
        s.p[b, s.size[b]] = 0.0
    n = s.size[b]
    k = s.slot[b, n]
    s.vertices[b, k] = v
    s.t[b, k] = t
    s.used[b, k] = used
    s.size[b] = n + 1
    entered[i] = k
    stays = _correct(s, b, n, q)
    _update_mean(s, b)
    return stays


@njit(cache=True, nogil=True)
def finish(s: ActiveSet, rows: Ints) -> None:
    """The corrective step once more on a fresh factor: rounding errors of the updates leave p and the mean."""
    q = np.empty(s.p.shape[1])
    for i in range(rows.shape[0]):
        b = rows[i]
        _refactor(s, b)
        _correct(s, b, -1, q)
        _update_mean(s, b)


@njit(cache=True, nogil=True)
def _face_width(s: ActiveSet, b: int) -> float:
    """How far from optimal a structure may be and still count as optimal."""
    width: float = max(FACE * s.unit[b], 4 * _tolerance(s, b, 0.0))
    return width


@njit(cache=True, nogil=True)
def probe(s: ActiveSet, rows: Ints, t: Floats, noise: Floats, out: Floats) -> None:
    """Ask across the face: out[i] = t - mu plus a small multiple of the part of noise[i] orthogonal to the support.

    The support's own vertices all have the same product with that direction, so what the oracle finds instead of them
    is either a new vertex of the optimal face or not optimal.
    """
    c = np.empty(s.p.shape[1])
    for i in range(rows.shape[0]):
        b = rows[i]
        n, q = s.size[b], noise[i]
        for _ in range(2):  # the second pass removes what rounding left
            for k in range(n):
                a = s.vertices[b, s.slot[b, k]]
                c[k] = 0.0
                for j in range(q.shape[0]):
                    c[k] += a[j] * q[j]
                for j in range(k):
                    c[k] -= s.factor[b, k, j] * c[j]
                c[k] /= s.factor[b, k, k]
            _back_substitute(s.factor[b], n, c)
            for k in range(n):
                a = s.vertices[b, s.slot[b, k]]
                for j in range(q.shape[0]):
                    q[j] -= c[k] * a[j]
        norm = 0.0
        for j in range(q.shape[0]):
            norm += q[j] * q[j]
        size = 10.0 * _face_width(s, b) / np.sqrt(max(norm, 1e-300))
        for j in range(q.shape[0]):
            out[i, j] = t[b, j] - s.mean[b, j] + size * q[j]


@njit(cache=True, nogil=True)
def widen(s: ActiveSet, rows: Ints, v: Floats, t: Floats, entered: Ints) -> None:
    """Take the oracle's answers to ``probe`` in, with p = 0, where they are optimal and affinely independent."""
    for i in range(rows.shape[0]):
        b = rows[i]
        entered[i] = -1
        n = s.size[b]
        value = t[i] - s.offset[b]
        short = _level(s, b) - _residual(s, b, v[i], value)
        if n >= s.p.shape[1] or short > _face_width(s, b):
            continue
        if _append(s, b, v[i], -short) < UNSURE_HIGH:
            continue
        k = s.slot[b, n]
        s.vertices[b, k] = v[i]
        s.t[b, k] = value
        s.p[b, n] = 0.0
        s.size[b] = n + 1
        entered[i] = k
