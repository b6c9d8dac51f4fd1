"""Consensus by the alternating direction method of multipliers, over the factors' own SparseMAP.

Every factor f has marginals mu_f of its own, in its polytope, and multipliers lambda_f for mu_f = mu (Martins et al.
2015, *AD3*; Niculae and Martins 2020, *LP-SparseMAP*). A round solves all factors, each pulled towards mu, then mu in
closed form, and moves the multipliers by what is left between them. Here gamma is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from structlat.factors.calls import best, solve
from structlat.factors.layout import Layout

RELAXATION = 1.7  # how far past a factor's own marginals a round goes
PERIOD = 10  # rounds between changes of the penalty
SETTLED = 2_000  # rounds after which it stays, as convergence is proved for
GAP = 1e-10  # at which a factor's own solver has done its work
DOUBT = 200  # rounds between looks at whether the factors contradict each other
ROUNDING = 32 * torch.finfo(torch.float64).eps

BY_ROW = (
    "row", "forbidden", "scores", "unit", "tol", "mean", "multipliers", "penalty", "primal", "dual", "drift",
    "contradictory",
)  # fmt: skip


class Start(NamedTuple):
    """What a consensus starts from: marginals [B, n], multipliers [B, E] and the penalty rho [B]."""

    mean: Tensor
    multipliers: Tensor
    penalty: Tensor


class Consensus(NamedTuple):
    """Where it ended.

    ``mean`` [B, n], ``multipliers`` [B, E] that add up to scores - mean at every variable, ``penalty`` [B]; ``own``
    [B, E], the factors' own marginals, which are their SparseMAP (gamma = 1) at the scores ``at`` [B, E]; and the
    largest difference of ``own`` from the mean, ``primal`` [B], and of the multipliers from those that make ``own``
    optimal, ``dual`` [B].
    """

    mean: Tensor
    multipliers: Tensor
    penalty: Tensor
    own: Tensor
    at: Tensor
    primal: Tensor
    dual: Tensor
    iterations: Tensor
    converged: Tensor


def consensus(
    layout: Layout, scores: Tensor, extra: Sequence[Tensor], start: Start | None, tol: float, max_iter: int
) -> tuple[Consensus, Tensor]:
    """Solve LP-SparseMAP for scores [B, n] and extra scores [B or 1, *lead, *extra_shape] of all factors.

    Rows that are done leave. Also says where no marginals satisfy all factors, for certain: [B] bool.
    """
    rounds = _Rounds(layout, scores, extra, start, tol)
    limit = 1 if layout.disjoint else max_iter
    done: list[tuple[Tensor, Tensor, Consensus]] = []
    while len(rounds.row) or not done:
        rounds.advance()
        ends = rounds.settled | (rounds.count == limit)
        if rounds.count % DOUBT == 0:
            rounds.doubt()
            ends = ends | rounds.contradictory
        if bool(ends.any()) or not len(ends):
            done.append(rounds.ended(ends))
            rounds.retain(~ends)
        if rounds.count % PERIOD == 0 and rounds.count < SETTLED:
            rounds.balance()
    row, contradictory, *parts = (torch.cat(x) for x in zip(*((a, b, *end) for a, b, end in done), strict=True))
    order = row.argsort()
    return Consensus(*(x[order] for x in parts)), contradictory[order]


class _Rounds:
    """The rows that are not done, ``row`` [R], and what each of them has."""

    def __init__(
        self, layout: Layout, scores: Tensor, extra: Sequence[Tensor], start: Start | None, tol: float
    ) -> None:
        self.layout, self.count = layout, 0
        self.row = torch.arange(len(scores), device=scores.device)
        self.forbidden = torch.isneginf(scores)
        self.scores = torch.where(self.forbidden, 0, scores)
        self.extra = [group.extra(extra) for group in layout.groups]
        self.degree = layout.degree.to(scores)
        size = _size(self.scores)
        for x in (y for ys in self.extra for y in ys):
            size = torch.maximum(size, _size(x))
        self.unit = size.clamp(max=1)
        self.tol = torch.maximum(tol * self.unit, ROUNDING * size.clamp(min=1))
        if start is None or layout.disjoint:
            mean = self._boxed(self.scores)
            shares = layout.spread((self.scores - mean) / self.degree.clamp(min=1))
            # multipliers may have to go as far as the scores do, and move by the penalty in a round
            start = Start(mean, shares, torch.ones_like(size) if layout.disjoint else size.clamp(min=1))
        self.mean, self.multipliers, self.penalty = start
        self.supports: list[list[Tensor]] = [[] for _ in layout.groups]
        self.contradictory = torch.zeros_like(self.forbidden[:, 0])

    def _boxed(self, x: Tensor) -> Tensor:
        return torch.where(self.forbidden, 0, x.clamp(0, 1))

    def advance(self) -> None:
        """One round."""
        self.count += 1
        layout, rho = self.layout, self.penalty.unsqueeze(-1)
        target = layout.spread(self.mean)
        at = torch.where(layout.spread(self.forbidden), -torch.inf, target + self.multipliers / rho)
        self.own = self._factors(at)
        pull = rho * (at - self.own)  # makes what the factors answered optimal for them
        if layout.disjoint:
            goal = self.own
            mean = torch.where(self.degree > 0, layout.gather(self.own), self._boxed(self.scores))
            multipliers = layout.spread(self.scores - mean)
        else:
            goal = RELAXATION * self.own + (1 - RELAXATION) * target
            total = self.scores + layout.gather(rho * goal - self.multipliers)
            mean = total / (1 + rho * self.degree)
            mean = torch.where(self.forbidden, 0, torch.where(self.degree > 0, mean, self._boxed(self.scores)))
            multipliers = self.multipliers + rho * (layout.spread(mean) - goal)
        free = ~layout.spread(self.forbidden)
        self.drift = torch.where(free, multipliers - self.multipliers, 0)
        self.primal = _size(self.own - layout.spread(mean))
        self.dual = _size(torch.where(free, pull - multipliers, 0))
        self.at = torch.where(free, self.own + pull, -torch.inf)
        self.mean, self.multipliers = mean, torch.where(free, multipliers, 0)
        self.settled = (self.primal <= self.tol) & (self.dual <= self.tol)

    def _factors(self, at: Tensor) -> Tensor:
        """The factors' own marginals [R, E], for scores [R, E] at which what pulls them has the strength 1."""
        out, self.sure = [], torch.ones_like(self.penalty, dtype=torch.bool)
        for i, group in enumerate(self.layout.groups):
            extra = (x / self.penalty.reshape(-1, *(1,) * (x.ndim - 1)) for x in self.extra[i])
            init = [group.flat(x) for x in self.supports[i]]
            answer = solve(group, group.flat(group.take(at)), tuple(group.flat(x) for x in extra), init)
            out.append(answer.mean.reshape(len(at), group.variables.numel()))
            self.supports[i] = [x.reshape(len(at), group.count, *x.shape[1:]) for x in answer.support]
            if answer.support:
                self.sure &= (
                    answer.gap.reshape(len(at), group.count) <= GAP * self.unit.clamp(min=1e-3).unsqueeze(-1)
                ).all(-1)
        return torch.cat([at[:, :0], *out], -1)

    def balance(self) -> None:
        """A larger penalty where factors are far from the mean, a smaller one where the multipliers are far off."""
        ratio = (self.primal / self.dual.clamp(min=1e-300)).clamp(1 / 16, 16)
        change = torch.where((ratio > 2) | (ratio < 1 / 2), ratio.sqrt(), 1)
        self.penalty = (self.penalty * change).clamp(1e-4, 1e12)

    def doubt(self) -> None:
        """Look for a proof that factors contradict each other: multipliers that cancel at every variable, and for which
        the best structures of all factors have a sum below 0, where marginals that all share would have one of 0.

        Where there are no such marginals the multipliers drift that way for ever.
        """
        layout = self.layout
        drift = self.drift - layout.spread(layout.gather(self.drift) / self.degree.clamp(min=1))
        drift = torch.where(layout.spread(self.forbidden), -torch.inf, drift / _size(drift).clamp(min=1e-300)[:, None])
        total = torch.zeros_like(self.penalty)
        for group, extra in zip(layout.groups, self.extra, strict=True):
            allowed = [torch.where(torch.isneginf(x), x, 0).expand(len(drift), *x.shape[1:]) for x in extra]
            total = total + best(group, drift, allowed)
        self.contradictory = total < -1e-9 * max(layout.width, 1)

    def ended(self, ends: Tensor) -> tuple[Tensor, Tensor, Consensus]:
        """The rows that end now, whether for a contradiction, and where."""
        count = torch.full_like(self.row, self.count)
        every = Consensus(
            self.mean, self.multipliers, self.penalty, self.own, self.at, self.primal, self.dual, count,
            self.settled & self.sure,
        )  # fmt: skip
        return self.row[ends], self.contradictory[ends], Consensus(*(x[ends] for x in every))

    def retain(self, stays: Tensor) -> None:
        """Go on with these rows."""
        for name in BY_ROW:
            setattr(self, name, getattr(self, name)[stays])
        self.extra = [tuple(x if len(x) == 1 != len(stays) else x[stays] for x in xs) for xs in self.extra]
        self.supports = [[x[stays] for x in xs] for xs in self.supports]


def _size(x: Tensor) -> Tensor:
    """The largest finite absolute value of each row of x [B, ...], [B]."""
    flat = torch.where(torch.isneginf(x), 0, x).abs().flatten(start_dim=1)
    return flat.amax(-1) if flat.shape[1] else flat.new_zeros(len(flat))
