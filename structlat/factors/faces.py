"""The supports of factors, and the faces of their polytopes in which their marginals lie.

The multipliers that a consensus ends with make a face optimal that may be larger than the one in which the marginals
lie: where several multipliers are right it ends at the border of them. So they are moved inside, by what is normal to
the polytope: the average, over some directions, of how far a step in that direction is thrown back.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from structlat import opaque
from structlat.factors.calls import solve, supports
from structlat.factors.layout import Group
from structlat.factors.tangent import Support
from structlat.operators import traced

DIRECTIONS = 8
STEPS = (1e-4, 1e-5, 1e-6)  # the first that is short enough for the smallest probability is taken
SHORT = 3e-8  # and how far from optimal a structure of the support may be then: less than what a face is told by
NOISE = 1e-7  # a probability that may be what the consensus has not got rid of yet


def supports_of(group: Group, at: Tensor, extra: tuple[Tensor, ...]) -> tuple[Support, tuple[Tensor, ...]]:
    """The supports of a group's factors at the scores ``at`` [B, E], extra [B or 1, F, ...], gamma 1.

    And what a SolverInfo is made of, [B, F] each.
    """
    rows = len(at)
    z, p, *info = supports(group, *_flat(group, at, extra), [])
    z = z.reshape(rows, group.count, *z.shape[1:])
    p = p.reshape(rows, group.count, p.shape[1])
    return Support(z, p, p > 0), tuple(x.reshape(rows, group.count) for x in info)


def faces_of(group: Group, support: Support, at: Tensor, extra: tuple[Tensor, ...], inside: bool) -> Support:
    """Affinely independent structures that span the face in which each factor's marginals lie; p is 0 where new.

    ``inside`` says that the multipliers are the only ones there are.
    """
    if not len(at):
        return support
    scores, flat = _flat(group, at, extra)
    z, p = group.flat(support.z), group.flat(support.p)
    unit = torch.where(torch.isneginf(scores), 0, scores).abs().flatten(start_dim=1).amax(-1).clamp(max=1)
    kept = torch.where(p > NOISE * unit.unsqueeze(-1), p, 0)
    a = group.structure.vertex(z).to(torch.float64)
    mean = _mean(p, a)
    normal = scores - mean
    if not inside:
        normal = _moved_inside(group, z, kept > 0, mean, normal, flat, unit)
    kept = kept / kept.sum(-1, keepdim=True)
    z, p, mask = opaque.face(_mean(kept, a) + normal, list(flat), z, kept, group.structure.handle, 1)
    shape = (len(at), group.count)
    return Support(*(x.reshape(*shape, *x.shape[1:]) for x in (z, p, mask)))


def _moved_inside(
    group: Group, z: Tensor, kept: Tensor, mean: Tensor, normal: Tensor, extra: tuple[Tensor, ...], unit: Tensor
) -> Tensor:
    """Multipliers [N, *shape] for which nothing but the face of the structures z [N, K, *event] ``kept`` is optimal."""
    drawn = np.random.default_rng(0).standard_normal((DIRECTIONS // 2, group.count, *mean.shape[1:]))
    q = torch.from_numpy(drawn).to(mean.device).unsqueeze(1)
    q = q.expand(-1, len(mean) // group.count, *drawn.shape[1:]).reshape(-1, *mean.shape)
    allowed = ~torch.isneginf(normal)
    open_rows, moved = torch.ones_like(unit, dtype=torch.bool), normal
    for size in STEPS:
        step = (size * unit).reshape(-1, *(1,) * (mean.ndim - 1))
        back = torch.zeros_like(mean)
        for shift in (sign * step * x for x in q for sign in (1, -1)):
            answer = solve(group, mean + normal + shift, extra, [])
            back += (shift - (answer.mean - mean)) / DIRECTIONS
        new = torch.where(allowed, normal + back, -torch.inf)
        best = opaque.argmax(new, list(extra), group.structure.handle, [len(new)])
        listed = torch.cat([best.unsqueeze(1), z], 1)
        score = group.structure.score(listed, new.unsqueeze(1), *(x.unsqueeze(1) for x in extra))
        short = torch.where(kept, score[:, :1] - score[:, 1:], 0).amax(-1)
        fits = open_rows & (short < SHORT * unit)
        moved = torch.where(fits.reshape(step.shape), new, moved)
        open_rows = open_rows & ~fits
        if not traced() and not bool(open_rows.any()):
            break
    return moved


def _mean(p: Tensor, a: Tensor) -> Tensor:
    return (p.reshape(p.shape + (1,) * (a.ndim - 2)) * a).sum(1)


def _flat(group: Group, at: Tensor, extra: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    rows = len(at)
    return group.flat(group.take(at)), tuple(group.flat(x.expand(rows, *x.shape[1:])) for x in extra)
