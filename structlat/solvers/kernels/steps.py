"""The steps of the active-set method on one row, and a round of it on many."""

from __future__ import annotations

import numpy as np

from oracles._jit import kernel, loose_kernel
from structlat.solvers.kernels.bits import common, dot, selected, sum_at
from structlat.solvers.kernels.factor import append, back_substitute, delete, refactor, refresh, solve, update_mean
from structlat.solvers.kernels.state import (
    CONTINUES,
    CONVERGED,
    EPS,
    INFEASIBLE,
    STALLED,
    ActiveSet,
    Bytes,
    Floats,
    Ints,
    Words,
)

# The oracle is asked as if scores were multiplied by 1 + TIE: ties among fitted parts go to the larger score, not to
# rounding noise. As only the proportion counts, it is the mean that is multiplied, by UNDER.
TIE = 1e-12
UNDER = 1.0 / (1.0 + TIE)
# Schur complement over |a|^2 + 1 under which a vertex lies in the affine hull of the support.
DEPENDENT = 1e-10
# Between these the factor is recomputed before that is decided.
UNSURE_LOW, UNSURE_HIGH = 1e-12, 1e-8


@loose_kernel
def level(s: ActiveSet, b: int) -> tuple[float, float]:
    """The slope at the mean itself, <p, r>, which a structure has to exceed, and what rounding leaves of it."""
    square, slope, used = dot(s.mean[b], s.mean[b]), 0.0, 0.0
    for i in range(s.size[b]):
        k = s.slot[b, i]
        slope += s.p[b, i] * s.t[b, k]
        used += s.p[b, i] * s.used[b, k]
    return slope - square, 8 * EPS * (used + square)


@kernel
def correct(s: ActiveSet, b: int, new: int, step: Floats) -> bool:
    """Move p to the optimum of the support's affine hull, dropping what reaches zero on the way.

    ``new`` is the position of a structure that has just entered, or -1. Returns False where it had to leave at
    once, on a fresh factor: rounding, not the problem, then decides.
    """
    p, values = s.p[b], s.y[b, 1]
    refactored = False
    while True:
        n = s.size[b]
        solve(s, b, step)
        length, block = 1.0, -1
        for i in range(n):
            if p[i] + step[i] <= 0.0:
                ratio = min(p[i] / -step[i], 1.0) if p[i] > 0.0 else 0.0
                if block < 0 or ratio < length:
                    length, block = ratio, i
        if block == new and block >= 0 and length == 0.0 and not refactored:
            refactor(s, b)
            refactored = True
            continue
        for i in range(n):
            p[i] = max(p[i] + length * step[i], 0.0)
        if block < 0:
            values[:n] = 0.0
            return True
        for i in range(n):
            values[i] *= 1.0 - length
        delete(s, b, block)
        if block == new and length == 0.0:
            return False
        if block < new:
            new -= 1


@kernel
def exchange(s: ActiveSet, b: int, t: float, weight: float, c: Floats) -> float:
    """Make room for a structure of score t and probability ``weight`` that depends affinely on the support.

    p moves along the null direction, the way that does not lose, until somebody has none; the mean stays. Where that is
    somebody else, he leaves, and the structure's own p is returned: the caller appends it. Otherwise, or where there is
    nothing to gain or to get rid of, it returns 0. ``factor[size]`` holds L^-1 (A v + 1), from ``append``.
    """
    n = s.size[b]
    p, slot = s.p[b], s.slot[b]
    line = n * (n + 1) // 2
    c[:n] = s.factor[b, line : line + n]
    back_substitute(s.factor[b], n, c)
    gain, scale = t, abs(t)
    for i in range(n):
        change = c[i] * s.t[b, slot[i]]
        gain -= change
        scale += abs(change)
    gains = gain > 8 * EPS * (scale + s.largest[b])
    sign = 1.0 if gains else -1.0
    length, block = np.inf if gains else weight, -1
    for i in range(n):
        if sign * c[i] > 1e-9 and p[i] < length * sign * c[i]:
            length, block = p[i] / (sign * c[i]), i
    for i in range(n):
        p[i] = max(p[i] - length * sign * c[i], 0.0)
    if block < 0:
        return 0.0
    delete(s, b, block)
    return weight + sign * length


@kernel
def position(s: ActiveSet, b: int, v: Words, t: float) -> int:
    """Where the structure with vertex v and score t is in the support, or -1."""
    for i in range(s.size[b]):
        k = s.slot[b, i]
        same = True
        for w in range(v.shape[0]):
            if s.words[b, k, w] != v[w]:
                same = False
        # with extra parts two structures may share a vertex: their scores tell them apart
        if same and abs(s.t[b, k] - t) <= 8 * EPS * (s.largest[b] + s.used[b, k]):
            return i
    return -1


@kernel
def put(s: ActiveSet, b: int, v: Words, t: float, used: float, z: Bytes, p: float) -> None:
    """Give the structure that was appended the first free slot, and count it in."""
    n = s.size[b]
    k = s.slot[b, n]
    s.words[b, k] = v
    s.t[b, k] = t
    s.used[b, k] = used
    s.z[b, k] = z
    s.p[b, n] = p
    s.size[b] = n + 1


@kernel
def see(s: ActiveSet, b: int, v: Words, t: float) -> None:
    """Keep the scale of the problem up to date."""
    s.largest[b] = max(s.largest[b], abs(t))
    s.norm[b] = max(s.norm[b], common(v, v))


@kernel
def load(
    s: ActiveSet, lanes: Ints, scores: Floats, v: Words, more: Floats, z: Bytes, p: Floats, moves: bool,
    status: Ints, start: int, stop: int,
) -> None:  # fmt: skip
    """Start the lanes [N] from p [N, K] on the structures z [N, K, bytes] of vertices v [N, K, words].

    ``more`` [2, N, K] is what extra scores add to a structure's score, and to the sum of its absolute ones. Infeasible
    structures go; p is scaled to sum to one, and is 1 on the first where nothing is left. What depends affinely on the
    structures before it moves p to the boundary, never down; then, with ``moves``, the corrective step.
    """
    q = np.empty(s.p.shape[1])
    t, used = np.empty(v.shape[1]), np.empty(v.shape[1])
    for i in range(start, stop):
        b = lanes[i]
        for k in range(s.slot.shape[1]):
            s.slot[b, k] = k
        total = 0.0
        status[i] = CONTINUES
        for k in range(v.shape[1]):
            t[k], used[k] = selected(scores[s.row[b]], v[i, k])
            t[k] += more[0, i, k]
            used[k] += more[1, i, k]
            if t[k] > -np.inf:
                see(s, b, v[i, k], t[k])
                total += p[i, k]
        s.offset[b] = t[0]
        if not t[0] > -np.inf:
            status[i] = INFEASIBLE
            continue
        for k in range(v.shape[1]):
            weight = p[i, k] / total if total > 0.0 else 1.0 if k == 0 else 0.0
            if not (weight > 0.0 and t[k] > -np.inf):
                continue
            value = t[k] - s.offset[b]
            known = position(s, b, v[i, k], value)
            if known >= 0:
                s.p[b, known] += weight
                continue
            if append(s, b, v[i, k], 0.0) < UNSURE_HIGH:
                weight = exchange(s, b, value, weight, q)
                if weight <= 0.0:
                    continue
                append(s, b, v[i, k], 0.0)
            put(s, b, v[i, k], value, used[k], z[i, k], weight)
        refresh(s, b)
        if moves:
            correct(s, b, -1, q)
            update_mean(s, b)


@kernel
def ask(s: ActiveSet, b: int, scores: Floats, at: Floats) -> None:
    """What the oracle is asked, up to a factor: (1 + TIE) scores - mu; -inf stays."""
    mean = s.mean[b]
    for j in range(at.shape[0]):
        at[j] = scores[j] - UNDER * mean[j]


@kernel
def ask_all(s: ActiveSet, lanes: Ints, scores: Floats, at: Floats) -> None:
    """``ask`` for the lanes [N]: at [N, d]."""
    for i in range(lanes.shape[0]):
        ask(s, lanes[i], scores[s.row[lanes[i]]], at[i])


@kernel
def advance(
    s: ActiveSet, lanes: Ints, scores: Floats, v: Words, more: Floats, z: Bytes, tol: float,
    gap: Floats, status: Ints, at: Floats, start: int, stop: int,
) -> None:  # fmt: skip
    """One round for the lanes [N], whose oracle answered z [N, bytes] with vertices v [N, words].

    Writes ``gap`` [N], ``status`` [N], and at [N, d]: what the oracle is to be asked next. ``more`` [2, N] is as in
    ``load``. There has to be room for one structure more in every lane.
    """
    q = np.empty(s.p.shape[1])
    for i in range(start, stop):
        b = lanes[i]
        own = scores[s.row[b]]
        t, used = selected(own, v[i])
        t += more[0, i]
        used += more[1, i]
        if not t > -np.inf:
            status[i] = INFEASIBLE
            continue
        see(s, b, v[i], t)
        value = t - s.offset[b]
        base, rounding = level(s, b)
        gain = value - sum_at(s.mean[b], v[i]) - base
        gap[i] = max(gain, 0.0)
        if gain < -(100 * TIE * s.largest[b] + 16 * rounding):
            # worse than what the oracle said before: it does not maximise, and nothing is certified
            gap[i], status[i] = np.inf, STALLED
            continue
        if gap[i] <= max(tol * min(s.largest[b], s.norm[b]), rounding):
            status[i] = CONVERGED
            continue
        status[i] = CONTINUES
        if position(s, b, v[i], value) < 0 and enter(s, b, v[i], value, used, z[i], gain, q):
            s.stuck[b] = np.inf
        else:
            # What is in the support, or leaves it at once, cannot be better than the support's optimum, but for
            # rounding errors in it: they are removed, as long as that helps.
            if not gap[i] < 0.5 * s.stuck[b]:
                status[i] = STALLED
            s.stuck[b] = gap[i]
            refactor(s, b)
            correct(s, b, -1, q)
            update_mean(s, b)
        ask(s, b, own, at[i])


@kernel
def enter(s: ActiveSet, b: int, v: Words, t: float, used: float, z: Bytes, gain: float, q: Floats) -> bool:
    """Let a structure in and move p; returns False where it cannot stay."""
    weight = 0.0
    ratio = append(s, b, v, gain)
    if UNSURE_LOW < ratio < UNSURE_HIGH:
        refactor(s, b)
        ratio = append(s, b, v, gain)
    if ratio < DEPENDENT:
        weight = exchange(s, b, t, 0.0, q)
        if weight <= 0.0:
            return False
        append(s, b, v, gain)
    put(s, b, v, t, used, z, weight)
    stays = correct(s, b, s.size[b] - 1, q)
    update_mean(s, b)
    return stays


@kernel
def finish(s: ActiveSet, lanes: Ints, start: int, stop: int) -> None:
    """The corrective step once more, from fresh residuals: rounding errors of the updates leave p and the mean."""
    q = np.empty(s.p.shape[1])
    for i in range(start, stop):
        refresh(s, lanes[i])
        correct(s, lanes[i], -1, q)
        update_mean(s, lanes[i])
