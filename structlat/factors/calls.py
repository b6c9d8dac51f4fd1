"""What is asked of the factors of a group, all of them in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from structlat import opaque
from structlat.factors.layout import Group
from structlat.map_oracle import event_dtype
from structlat.solvers import methods

TOL = 1e-14  # a consensus is no better than its factors


class Solved(NamedTuple):
    """A group's marginals [N, *shape] and, where there is no closed form, its supports: z [N, K, *event], p [N, K].

    ``gap`` [N], at penalty 1.
    """

    mean: Tensor
    support: list[Tensor]
    gap: Tensor


def solve(group: Group, scores: Tensor, extra: tuple[Tensor, ...], init: list[Tensor]) -> Solved:
    """SparseMAP at gamma = 1 of all the group's factors, scores [N, *shape] and extra [N, *extra_shape]."""
    form = group.structure.closed_form(scores, *extra) if len(scores) else None
    if form is not None:
        return Solved(form.mean(), [], scores.new_zeros(len(scores)))
    z, p, gap, *_ = supports(group, scores, extra, init)
    a = group.structure.vertex(z).to(p.dtype)
    return Solved((p.reshape(p.shape + (1,) * (a.ndim - 2)) * a).sum(1), [z, p], gap)


def supports(group: Group, scores: Tensor, extra: tuple[Tensor, ...], init: list[Tensor]) -> tuple[Tensor, ...]:
    """The same by the active set: z [N, K, *event] and p [N, K], gap, iterations, oracle calls, converged [N]."""
    if not len(scores):
        z = scores.new_zeros(0, 1, *group.structure.event_shape, dtype=event_dtype(group.structure))
        count = torch.zeros(0, dtype=torch.int64, device=scores.device)
        return z, scores.new_zeros(0, 1), scores.new_zeros(0), count, count, count > 0
    one = torch.ones(1, dtype=torch.float64, device=scores.device)
    solver = methods.default(scores.device)
    out: tuple[Tensor, ...] = opaque.solve(
        scores, list(extra), one, init, group.structure.handle, solver, TOL, None, "ignore", False, False,
        [len(scores)], 1,
    )  # fmt: skip
    return out[:6]


def best(group: Group, scores: Tensor, extra: Sequence[Tensor]) -> Tensor:
    """The sum over the group's factors of their highest scores, [B], for scores [B, E] and extra [B, F, ...]."""
    rows = group.flat(group.take(scores))
    more = [group.flat(x) for x in extra]
    z = opaque.argmax(rows, more, group.structure.handle, [len(rows)])
    return group.structure.score(z, rows, *more).reshape(len(scores), group.count).sum(-1)
