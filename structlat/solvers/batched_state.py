"""Where a batched solver stands: one support a row, in torch tensors on the scores' device.

Nothing here waits for the device. What the host has to know (which rows are done, how large the supports are) it asks
between rounds, in ``batched.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from structlat.solvers.batched_oracle import Answer
from structlat.solvers.kernels.state import CONTINUES, CONVERGED, EPS, STALLED
from structlat.solvers.kernels.steps import TIE

NOISE = 1e-9  # an affine coordinate below this is a rounding error: coordinates of 0/1 vertices are ratios of integers
ROOM = 16  # capacity grows by so many: a factor costs its cube, a copy once in some rounds next to nothing


@dataclass
class State:
    """B rows, each with room for C structures. A structure is in the support where p > 0; other slots are free."""

    z: Tensor  # [B, C, *event]
    v: Tensor  # [B, C, d], vertices
    square: Tensor  # [B, C], |a|^2
    t: Tensor  # [B, C], scores less ``offset``
    used: Tensor  # [B, C], the sum of the absolute scores that a structure uses
    p: Tensor  # [B, C]
    mean: Tensor  # [B, d], sum p a
    offset: Tensor  # [B], the score of the row's first structure: so nothing cancels where scores are large
    largest: Tensor  # [B], the largest |score| of a structure seen
    norm: Tensor  # [B], the largest |a|^2 of a structure seen
    row: Tensor  # [B] int64, the number of the row in the whole batch
    gap: Tensor  # [B], at the last answer of the oracle
    status: Tensor  # [B] int64, CONTINUES, CONVERGED or STALLED
    rounds: Tensor  # [B] int64
    calls: Tensor  # [B] int64, of the oracle
    pending: Tensor  # [B] int64, corrective steps since the support's optimum was last reached; 0: p is there
    stuck: Tensor  # [B], the gap when rounding errors were last removed without a structure coming in since; else inf

    @classmethod
    def start(cls, answers: Answer, p: Tensor) -> State:
        """From p [B, K] on ``answers``, structures [B, K, ...] of which each row has a feasible first one.

        Infeasible structures go; p is scaled to sum to one, and is 1 on the first where nothing is left.
        """
        there = torch.isfinite(answers.t)
        p = torch.where(there, p.to(torch.float64), 0)
        total = p.sum(-1, keepdim=True)
        alone = torch.zeros_like(p)
        alone[:, 0] = 1
        p = torch.where(total > 0, p / torch.where(total > 0, total, 1), alone)
        score = torch.where(there, answers.t, 0)
        square = answers.v.square().sum(-1)
        rows = len(p)
        inf = torch.full_like(score[:, 0], torch.inf)
        zero = torch.zeros(rows, dtype=torch.int64, device=p.device)
        return cls(
            z=answers.z,
            v=answers.v,
            square=square,
            t=torch.where(there, score - score[:, :1], 0),
            used=torch.where(there, answers.used, 0),
            p=p,
            mean=average(p, answers.v),
            offset=score[:, 0],
            largest=score.abs().amax(-1),
            norm=torch.where(there, square, 0).amax(-1),
            row=torch.arange(rows, device=p.device),
            gap=inf,
            status=zero + CONTINUES,
            rounds=zero,
            calls=zero + 1,
            pending=zero,
            stuck=inf.clone(),
        )

    def take(self, index: Tensor) -> State:
        """The rows at ``index``, as a copy."""
        return State(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def put(self, index: Tensor, other: State) -> None:
        """Write the rows of ``other`` back to ``index``."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name).index_copy(0, index, getattr(other, f.name)))

    def grow(self, needed: int) -> None:
        """See to it that there is room for ``needed`` structures."""
        rows, capacity = self.p.shape
        wider = -(-needed // ROOM) * ROOM
        if wider > capacity:
            for name in ("z", "v", "square", "t", "used", "p"):
                x: Tensor = getattr(self, name)
                setattr(self, name, torch.cat([x, x.new_zeros(rows, wider - capacity, *x.shape[2:])], 1))

    def size(self) -> Tensor:
        """How many structures are in the support, [B]."""
        return (self.p > 0).sum(-1)

    def tolerance(self, tol: float) -> Tensor:
        """Relative to the scale of the problem, and never below what rounding leaves, [B]."""
        rounding = 8 * EPS * ((self.p * self.used).sum(-1) + self.mean.square().sum(-1))
        return torch.maximum(tol * torch.minimum(self.largest, self.norm), rounding)

    def slopes(self) -> Tensor:
        """The slope of the objective from the mean towards each structure of the support, [B, C]; 0 elsewhere."""
        residual = self.t - (self.v @ self.mean.unsqueeze(-1)).squeeze(-1)
        level = (self.p * residual).sum(-1, keepdim=True)
        return torch.where(self.p > 0, residual - level, 0)

    def hear(self, answer: Answer, tol: float) -> Round:
        """Take the oracle's answer in, at p = 0, and judge the rows by it."""
        square = answer.v.square().sum(-1)
        self.largest = torch.maximum(self.largest, answer.t.abs())
        self.norm = torch.maximum(self.norm, square)
        inside = self.p > 0
        value = answer.t - self.offset
        overlap, common = (self.v @ torch.stack([self.mean, answer.v], -1)).unbind(-1)
        residual = self.t - overlap
        level = (self.p * residual).sum(-1)
        gain = value - (answer.v * self.mean).sum(-1) - level
        slope = torch.where(inside, residual - level.unsqueeze(-1), 0)
        # with extra parts two structures may share a vertex: their scores tell them apart
        near = (self.t - value.unsqueeze(-1)).abs() <= 8 * EPS * (self.largest.unsqueeze(-1) + self.used)
        same = inside & near & (self.square + square.unsqueeze(-1) - 2 * common == 0)
        known = same.any(-1)
        slot = torch.where(known, same.to(torch.int8).argmax(-1), inside.to(torch.int8).argmin(-1))
        self._write(slot, ~known, answer, square, value)
        slope = slope.scatter(1, slot.unsqueeze(-1), torch.where(known, at(slope, slot), gain).unsqueeze(-1))
        live = self.status == CONTINUES
        used = torch.maximum(torch.where(inside, self.used, 0).amax(-1), answer.used)
        slack = 100 * TIE * self.largest + 128 * EPS * (used + self.mean.square().sum(-1))
        # worse than what the oracle said before: it does not maximise, and nothing is certified
        broken = answer.infeasible | ~(gain - slope.amax(-1) >= -slack)
        gap = torch.where(broken, torch.inf, gain.clamp(min=0))
        self.gap = torch.where(live, gap, self.gap)
        self.rounds = self.rounds + live
        self.calls = self.calls + live
        done = (gap <= self.tolerance(tol)) & (self.pending == 0)
        verdict = torch.where(broken, STALLED, torch.where(done, CONVERGED, CONTINUES))
        self.status = torch.where(live, verdict, self.status)
        return Round(slot, known, slope, gain, torch.where(inside, common + 1, 0), square + 1)

    def _write(self, slot: Tensor, where: Tensor, answer: Answer, square: Tensor, value: Tensor) -> None:
        """Put the answers into their slots, which are free ``where`` it says so."""
        rows = torch.arange(len(slot), device=slot.device)
        for x, new in (
            (self.z, answer.z),
            (self.v, answer.v),
            (self.square, square),
            (self.t, value),
            (self.used, answer.used),
        ):
            old = x[rows, slot]
            x[rows, slot] = torch.where(where.reshape(-1, *(1,) * (new.ndim - 1)), new.to(x.dtype), old)

    def move(self, weights: Tensor, length: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Move p by ``length`` [B] times ``weights`` [B, C], no farther than p >= 0 allows; what reaches 0 is dropped.

        Returns where the boundary was reached, and where p changed at all, [B] each.
        """
        ratio = torch.where(weights < 0, self.p / -weights, torch.inf)
        bound = ratio.amin(-1)
        reached = where & (bound <= length)
        step = torch.minimum(bound, length)
        step = torch.where(where & torch.isfinite(step), step, 0).unsqueeze(-1)
        p = torch.where(reached.unsqueeze(-1) & (ratio <= step), 0, self.p + step * weights).clamp(min=0)
        moved = (step.squeeze(-1) > 0) & (p != self.p).any(-1)
        self.p = torch.where((moved | reached).unsqueeze(-1), p / p.sum(-1, keepdim=True), self.p)
        self.mean = average(p, self.v)
        return reached, moved


class Round(NamedTuple):
    """What the oracle's answer means for the rows of a :class:`State`."""

    slot: Tensor  # [B], where the answer is now
    known: Tensor  # [B] bool, it was in the support before
    slope: Tensor  # [B, C], of the objective from the mean towards the support and the answer; elsewhere 0
    gain: Tensor  # [B], that towards the answer: the duality gap
    line: Tensor  # [B, C], its line of M = A A' + 1 1'; 0 outside the support
    corner: Tensor  # [B], |a|^2 + 1


def average(p: Tensor, v: Tensor) -> Tensor:
    """Sum p a for p [B, C] and v [B, C, d]: [B, d]."""
    return (p.unsqueeze(1) @ v).squeeze(1)


def at(x: Tensor, slot: Tensor) -> Tensor:
    """Entries of x [B, C] at ``slot`` [B]: [B]."""
    return x.gather(1, slot.unsqueeze(-1)).squeeze(-1)
