"""The steps of the active-set method on one row, and a round of it on many."""

from __future__ import annotations

import numpy as np

from oracles._jit import inlined_kernel, kernel, loose_kernel
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
    uncounted_state,
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


@inlined_kernel
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


@inlined_kernel
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


@inlined_kernel
def see(s: ActiveSet, b: int, v: Words, t: float) -> None:
    """Keep the scale of the problem up to date."""
    s.largest[b] = max(s.largest[b], abs(t))
    s.norm[b] = max(s.norm[b], common(v, v))


@kernel
def load_one(
    s: ActiveSet, b: int, scores: Floats, v: Words, added: Floats, size: Floats, z: Bytes, p: Floats, moves: bool
) -> int:
    """Start lane b from p [K] on the structures z [K, bytes] of vertices v [K, words]; returns its status.

    ``added`` [K] is what extra scores add to a structure's score, ``size`` [K] what to the sum of its absolute ones.
    Infeasible structures go; p is scaled to sum to one, and is 1 on the first where nothing is left. What depends
    affinely on the structures before it moves p to the boundary, never down; then, with ``moves``, the corrective step.
    """
    count, q = v.shape[0], np.empty(s.p.shape[1])
    t, used = np.empty(count), np.empty(count)
    for k in range(s.slot.shape[1]):
        s.slot[b, k] = k
    s.size[b], s.stuck[b], s.largest[b], s.norm[b] = 0, np.inf, 0.0, 0.0
    total = 0.0
    for k in range(count):
        t[k], used[k] = selected(scores, v[k])
        t[k] += added[k]
        used[k] += size[k]
        if t[k] > -np.inf:
            see(s, b, v[k], t[k])
            total += p[k]
    if not t[0] > -np.inf:
        return INFEASIBLE
    s.offset[b] = t[0]
    for k in range(count):
        weight = p[k] / total if total > 0.0 else 1.0 if k == 0 else 0.0
        if not (weight > 0.0 and t[k] > -np.inf):
            continue
        value = t[k] - s.offset[b]
        known = position(s, b, v[k], value)
        if known >= 0:
            s.p[b, known] += weight
            continue
        if append(s, b, v[k], 0.0) < UNSURE_HIGH:
            weight = exchange(s, b, value, weight, q)
            if weight <= 0.0:
                continue
            append(s, b, v[k], 0.0)
        put(s, b, v[k], value, used[k], z[k], weight)
    if moves:
        finish_one(s, b, q)
    else:
        update_mean(s, b)
    return CONTINUES


@kernel
def load(
    s: ActiveSet, lanes: Ints, scores: Floats, v: Words, more: Floats, z: Bytes, p: Floats, moves: bool,
    status: Ints, start: int, stop: int,
) -> None:  # fmt: skip
    """``load_one`` for the lanes [N]: v [N, K, words], more [2, N, K], z [N, K, bytes], p [N, K]."""
    s = uncounted_state(s)
    for i in range(start, stop):
        b = lanes[i]
        status[i] = load_one(s, b, scores[s.row[b]], v[i], more[0, i], more[1, i], z[i], p[i], moves)


@inlined_kernel
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


@inlined_kernel
def advance_one(
    s: ActiveSet, b: int, scores: Floats, v: Words, added: float, size: float, z: Bytes, tol: float, q: Floats
) -> tuple[int, float]:
    """One round of lane b, whose oracle answered z [bytes] with vertex v [words]: its status and its gap.

    ``added`` and ``size`` are as in ``load_one``. There has to be room for one structure more; q is scratch.
    """
    t, used = selected(scores, v)
    t += added
    used += size
    if not t > -np.inf:
        return INFEASIBLE, np.inf
    see(s, b, v, t)
    value = t - s.offset[b]
    base, rounding = level(s, b)
    gain = value - sum_at(s.mean[b], v) - base
    gap = max(gain, 0.0)
    if gain < -(100 * TIE * s.largest[b] + 16 * rounding):
        # worse than what the oracle said before: it does not maximise, and nothing is certified
        return STALLED, np.inf
    if gap <= max(tol * min(s.largest[b], s.norm[b]), rounding):
        return CONVERGED, gap
    if position(s, b, v, value) < 0 and enter(s, b, v, value, used, z, gain, q):
        s.stuck[b] = np.inf
        return CONTINUES, gap
    # What is in the support, or leaves it at once, cannot be better than the support's optimum, but for
    # rounding errors in it: they are removed, as long as that helps.
    status = CONTINUES if gap < 0.5 * s.stuck[b] else STALLED
    s.stuck[b] = gap
    refactor(s, b)
    correct(s, b, -1, q)
    update_mean(s, b)
    return status, gap


@kernel
def advance(
    s: ActiveSet, lanes: Ints, scores: Floats, v: Words, more: Floats, z: Bytes, tol: float,
    gap: Floats, status: Ints, at: Floats, start: int, stop: int,
) -> None:  # fmt: skip
    """``advance_one`` for the lanes [N]: v [N, words], more [2, N], z [N, bytes].

    Writes ``gap`` [N], ``status`` [N], and at [N, d]: what the oracle is to be asked next.
    """
    s = uncounted_state(s)
    q = np.empty(s.p.shape[1])
    for i in range(start, stop):
        b = lanes[i]
        own = scores[s.row[b]]
        status[i], gap[i] = advance_one(s, b, own, v[i], more[0, i], more[1, i], z[i], tol, q)
        ask(s, b, own, at[i])


@inlined_kernel
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
def finish_one(s: ActiveSet, b: int, q: Floats) -> None:
    """The corrective step once more, from fresh residuals: rounding errors of the updates leave p and the mean."""
    refresh(s, b)
    correct(s, b, -1, q)
    update_mean(s, b)


@kernel
def finish(s: ActiveSet, lanes: Ints, start: int, stop: int) -> None:
    """``finish_one`` for the lanes [N]."""
    s = uncounted_state(s)
    q = np.empty(s.p.shape[1])
    for i in range(start, stop):
        finish_one(s, lanes[i], q)
