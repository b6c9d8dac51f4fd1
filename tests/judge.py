"""The judge: every structure enumerated, and SparseMAP solved over them by methods that share nothing with the
library."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy.optimize import nnls

import structlat as sl

SCALES = (1e-6, 1e-2, 1.0, 1e3, 1e6)


def draw(structure, generator, rows, scale=1.0, kind="normal"):
    """Scores and extra scores, float64: normal, integer (ties), equal, or on a base with one part set apart."""
    out = []
    for shape in (structure.shape, *structure.extra_shapes):
        x = torch.randn(rows, *shape, generator=generator, dtype=torch.float64)
        if kind == "integer":
            x = torch.randint(-2, 3, x.shape, generator=generator).to(torch.float64)
        elif kind == "equal":
            x = torch.full_like(x, 0.5)
        elif kind == "base":
            flat = torch.tensor([0.0, 100.0, -100.0], dtype=torch.float64)
            x = flat[torch.arange(rows) % 3].reshape(rows, *(1,) * len(shape)).expand(x.shape).clone()
            if x[0].numel():
                apart = torch.tensor([1.0, 100.0, -1.0, -100.0], dtype=torch.float64)
                x.reshape(rows, -1)[torch.arange(rows), torch.arange(rows) % x[0].numel()] = apart[
                    torch.arange(rows) % 4
                ]
        out.append(scale * x)
    return out


def forbid(structure, inputs, generator, share=0.3):
    """Put -inf on a random share of the parts, sparing one random structure so that something stays feasible."""
    every = structure.enumerate()
    spared = structure.vertex(every[torch.randint(len(every), (len(inputs[0]),), generator=generator)]) > 0
    drawn = torch.rand(inputs[0].shape, generator=generator) < share
    return [torch.where(drawn & ~spared, -torch.inf, inputs[0]), *inputs[1:]]


def all_binary_vertices(structure):
    """Every 0/1 vector of the space's shape (for membership at sizes where all of them can be tried)."""
    n = structure.shape.numel()
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)), dtype=torch.float64).reshape(
        -1, *structure.shape
    )


def vertices_and_offsets(structure, extra, row):
    """A [|Z|, d] and what each structure's extra parts add, [|Z|], for one row."""
    every = structure.enumerate()
    zero = torch.zeros(1, *structure.shape, dtype=torch.float64)
    offset = structure.score(every, zero, *(x[row : row + 1] for x in extra)).expand(len(every))
    return structure.vertex(every).reshape(len(every), -1).double().numpy(), offset.numpy().copy()


def enumerated_sparsemap(structure, scores, extra=(), gamma=1.0):
    """Marginals of SparseMAP [B, *shape] (symmetric or not): the quadratic program over every vertex.

    Two methods that share nothing with the library or each other; the one with the smaller duality gap, over all
    vertices, judges, and that gap has to be down to rounding.
    """
    means = []
    for row in range(len(scores)):
        x = scores[row].reshape(-1).numpy().astype(float)
        g = float(gamma)
        if structure.symmetric:
            x, g = x + g, 2 * g
        a, h = vertices_and_offsets(structure, extra, row)
        feasible = ~(a[:, np.isneginf(x)] > 0).any(1) & np.isfinite(h)
        a, h = a[feasible], h[feasible] / g
        centre = np.where(np.isneginf(x), 0, x) / g
        means.append(_solve(a, a @ centre + h) @ a)
    return torch.from_numpy(np.stack(means)).reshape(scores.shape)


def _solve(a, s):
    def gap(p):
        slope = s - a @ (a.T @ p)
        return slope.max() - p @ slope

    s = s - s.max()
    with np.errstate(all="ignore"):  # the interior point method ends where it divides by zero
        answers = [method(a, s) for method in (_interior_point, _least_norm)]
    best = min((p for p in answers if np.isfinite(p).all()), key=gap)
    rounding = 1e-15 * max(a.sum(1).max(), np.ptp(s))
    assert gap(best) <= 4 * rounding, f"the judge did not converge: {[gap(p) for p in answers]}"
    return best


def _least_norm(a, s):
    """Wolfe's reduction: the point of least norm in conv{a_z - c} by non-negative least squares (Lawson and Hanson).

    Only where s is linear in the vertex, s = a c + constant: elsewhere the answer is wrong, and its gap says so.
    """
    lifted = np.hstack([a, np.ones((len(a), 1))])
    centre = np.linalg.lstsq(lifted, s, rcond=None)[0][:-1]
    points = a - centre
    size = max(np.abs(points).max(), 1.0)
    e = np.vstack([points.T / size, np.ones(len(a))])
    f = np.zeros(len(e))
    f[-1] = 1
    u, _ = nnls(e, f, maxiter=100 * e.shape[1])
    return u / u.sum()


def _interior_point(a, s):
    """p that maximises <s, p> - |a'p|^2 / 2 over the simplex: Mehrotra's predictor-corrector, down to rounding."""
    n = len(a)
    gram = a @ a.T
    p = np.full(n, 1 / n)
    tau = float((gram @ p - s).min()) - 1.0
    z = gram @ p - s - tau  # multipliers of p >= 0
    for _ in range(200):
        gap = p @ z / n
        if gap < 1e-20:
            break
        dual = gram @ p - s - tau - z
        primal = 1 - p.sum()
        root = np.sqrt(p)  # dp = root u: the scaled system keeps its condition where p vanishes
        system = root[:, None] * gram * root + np.diag(z)

        def step(target, p=p, z=z, dual=dual, primal=primal, system=system, root=root):
            right = root[:, None] * np.stack([-dual + (target - p * z) / p, np.ones(n)], 1)
            u, w = (root[:, None] * np.linalg.solve(system, right)).T
            d_tau = (primal - u.sum()) / w.sum()
            dp = u + d_tau * w
            return dp, d_tau, (target - p * z - z * dp) / p

        def reach(x, d):
            back = d < 0
            return min(1.0, float((-x[back] / d[back]).min())) if back.any() else 1.0

        try:
            dp, _, dz = step(0.0)
        except np.linalg.LinAlgError:  # rounding has the last word
            break
        after = (p + reach(p, dp) * dp) @ (z + reach(z, dz) * dz) / n
        dp, d_tau, dz = step((after / gap) ** 3 * gap - dp * dz)
        length = 0.995 * min(reach(p, dp), reach(z, dz))
        if not np.isfinite(dp).all() or not np.isfinite(dz).all():
            break
        p, tau, z = p + length * dp, tau + length * d_tau, z + length * dz
    return p / p.sum()


def finite_difference(structure, scores, extra=(), gamma=1.0, step=1e-5):
    """Central differences of the enumerated solution's marginals in the scores: [d, d] for one row."""
    d = scores[0].numel()
    columns = []
    for i in range(d):
        bump = torch.zeros(d, dtype=torch.float64)
        bump[i] = step
        bump = bump.reshape(scores.shape)
        up = enumerated_sparsemap(structure, scores + bump, extra, gamma)
        down = enumerated_sparsemap(structure, scores - bump, extra, gamma)
        columns.append(((up - down) / (2 * step)).reshape(-1))
    return torch.stack(columns, -1)


def plain_score(structure, z, scores, extra, used_extra=None):
    """Scores of z by a plain loop in Python floats, part by part: what the vectorized ``score`` is held against.

    ``used_extra(structure, z)`` lists the indices that z uses of each of the extra scores.
    """
    total = 0.0
    if isinstance(structure, sl.Categorical):
        return float(scores[int(z)])
    if isinstance(structure, (sl.BitVector, sl.BudgetBitVector)):
        total = sum((float(s) for s, on in zip(scores, z, strict=True) if on), total)
    elif isinstance(structure, sl.BipartiteMatching):
        total = sum((float(scores[r, c]) for r, c in enumerate(z.tolist()) if c >= 0), total)
    elif isinstance(structure, sl.LinearChain):
        labels = z.tolist()
        total = sum(float(scores[t, i]) for t, i in enumerate(labels))
        return total + sum(float(extra[0][t, i, j]) for t, (i, j) in enumerate(itertools.pairwise(labels)))
    else:
        total = sum((float(scores[tuple(part)]) for part in torch.nonzero(structure.vertex(z)).tolist()), total)
    if extra:
        for x, parts in zip(extra, used_extra(structure, z), strict=True):
            total += sum(float(x[part]) for part in parts)
    return total


def softmax(structure, inputs):
    """Log-partition [B] and probabilities [B, |Z|] over every structure, and the structures themselves."""
    every = structure.enumerate()
    s = structure.score(every.unsqueeze(0), *(x.unsqueeze(1) for x in inputs))
    return torch.logsumexp(s, -1), torch.softmax(s, -1), every
