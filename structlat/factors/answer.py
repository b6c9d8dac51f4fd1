"""What a consensus found, and what can be asked about it: each part is made, with its graph, when it is read."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from structlat.distribution import Source
from structlat.distribution import Support as Listed
from structlat.factors.admm import Consensus
from structlat.factors.calls import best
from structlat.factors.faces import faces_of, supports_of
from structlat.factors.layout import Group, Layout, Member
from structlat.factors.space import Factor
from structlat.factors.tangent import Support, Tangent
from structlat.operators import as_made, in_inference_mode, traced
from structlat.problem import Problem, needs_graph


class Answer:
    """A problem over all variables, ``gamma`` [B or 1], and where the consensus ended."""

    def __init__(
        self, problem: Problem, gamma: Tensor, factors: tuple[Factor, ...], layout: Layout, end: Consensus
    ) -> None:
        self.problem, self.gamma, self.factors, self.layout, self.end = problem, gamma, factors, layout, end
        self._scaled = problem.scaled(gamma).detached()
        self.inference = in_inference_mode()

    def detached(self) -> Answer:
        """The same without a graph."""
        scores, extra = self.problem.detached()
        problem = dataclasses.replace(self.problem, scores=scores, extra=tuple(extra))
        return Answer(problem, self.gamma.detach(), self.factors, self.layout, self.end)

    def scale(self) -> Tensor:
        """What numbers of the scaled problem are multiplied by to be in the units of the scores: [B]."""
        return self.gamma.expand(len(self.problem.scores)) * (2 if self.problem.structure.symmetric else 1)

    # With a graph, if anybody can ask for a derivative.

    def marginals(self) -> Tensor:
        """Of the variables, [B, n]."""
        return self.end.mean + self._moved(self.wide) if self._differentiable() else self.end.mean

    def objective(self) -> Tensor:
        """The Lagrangian dual in the units of the scores, [B]; its slope in the scores are the marginals."""
        value = self._bound
        if self._differentiable():
            gain = self._gain()
            value = value + (gain - gain.detach())
        value = self.scale() * value
        return value - self.gamma * self.end.mean.shape[1] / 2 if self.problem.structure.symmetric else value

    def probabilities(self, number: int) -> Tensor:
        """Of the supports of a group's factors, [B, F, K]."""
        p = self.supports[number][0].p
        return p + self.thin.probabilities(number, self._moved(self.thin)) if self._differentiable() else p

    def moments(self, number: int) -> tuple[Tensor, Tensor]:
        """Structures [B, F, K, *event] and weights [B, F, K], whose means are those of p and move as the marginals."""
        support = self.supports[number][0]
        if not self._differentiable():
            return support.z, support.p
        moved = self.wide.probabilities(number, self._moved(self.wide))
        return torch.cat([support.z, self.wide.supports[number].z], 2), torch.cat([support.p, moved], 2)

    def _differentiable(self) -> bool:
        return needs_graph(self.problem.scores, *self.problem.extra, self.gamma)

    def _moved(self, tangent: Tangent) -> Tensor:
        """Zeros [B, n] with the derivatives of the marginals."""
        scaled = self.problem.scaled(self.gamma)
        moved = tangent.moved(_finite(scaled.scores), scaled.extra)
        return moved - moved.detach()

    def _gain(self) -> Tensor:
        """The objective of the scaled problem at the factors' distributions, [B]."""
        scaled, mean = self.problem.scaled(self.gamma), self.marginals()
        gain = (_finite(scaled.scores) * mean).sum(-1) - mean.square().sum(-1) / 2
        for number, group in enumerate(self.layout.groups):
            extra = group.extra(scaled.extra)
            if extra:
                z, weights = self.moments(number)
                none = gain.new_zeros(1, 1, 1, *group.structure.shape)
                added = group.structure.score(z, none, *(x.unsqueeze(2) for x in extra))
                gain = gain + (weights * added).sum((1, 2))
        return gain

    # Found once, without a graph.

    @cached_property
    def supports(self) -> list[tuple[Support, tuple[Tensor, ...]]]:
        """Of each group, and what a SolverInfo is made of, [B, F]."""
        with as_made(self.inference), torch.no_grad():
            return [supports_of(group, self.end.at, self._extra(group)) for group in self.layout.groups]

    @cached_property
    def thin(self) -> Tangent:
        """How p on the supports moves."""
        return self._tangent([support for support, _ in self.supports])

    @cached_property
    def wide(self) -> Tangent:
        """How the marginals move: their faces are spanned by more than the supports."""
        with as_made(self.inference), torch.no_grad():
            faces = [
                faces_of(group, support, self.end.at, self._extra(group), self.layout.disjoint)
                for group, (support, _) in zip(self.layout.groups, self.supports, strict=True)
            ]
        return self._tangent(faces)

    @cached_property
    def _bound(self) -> Tensor:
        """The Lagrangian dual of the scaled problem at the multipliers, [B]."""
        with as_made(self.inference), torch.no_grad():
            forbidden = torch.isneginf(self._scaled[0])
            rest = _finite(self._scaled[0]) - self.layout.gather(self.end.multipliers)
            own = torch.where(forbidden, 0, rest.clamp(0, 1))
            total = (rest * own - own.square() / 2).sum(-1)
            shares = torch.where(self.layout.spread(forbidden), -torch.inf, self.end.multipliers)
            for group in self.layout.groups:
                extra = [x.expand(len(shares), *x.shape[1:]) for x in self._extra(group)]
                total = total + best(group, shares, extra)
            return total

    def _tangent(self, supports: list[Support]) -> Tangent:
        scores = self._scaled[0]
        with as_made(self.inference), torch.no_grad():
            fixed = (self.layout.degree.to(scores.device) == 0) & ~((scores >= 0) & (scores <= 1))
            return Tangent.of(self.layout, supports, fixed)

    def _extra(self, group: Group) -> tuple[Tensor, ...]:
        return group.extra(self._scaled[1])


class OfFactor(Source):
    """One factor's part of an answer (or that of its ``lead``), as a source of a distribution."""

    def __init__(self, answer: Answer, number: int, member: Member) -> None:
        self.answer, self.number, self.member = answer, number, member
        mask = answer.supports[number][0].mask[:, member.places]
        self._width = mask.shape[-1] if traced() else max(int(mask.sum(-1).max()) if mask.numel() else 0, 1)

    def probs(self) -> tuple[Tensor, Tensor]:
        """P of the support."""
        p, mask = self.answer.probabilities(self.number), self.answer.supports[self.number][0].mask
        return self._of(p, self._width).to(self.answer.problem.probs_dtype), self._of(mask, self._width)

    def structures(self) -> Tensor:
        """The support."""
        return self._dressed(self._of(self.answer.supports[self.number][0].z, self._width))

    def moments(self) -> Listed:
        """The support, and with a graph the face."""
        z, weights = self.answer.moments(self.number)
        return self._dressed(self._of(z)), self._of(weights)

    def _of(self, x: Tensor, width: int | None = None) -> Tensor:
        """The factor's part of x [B, F, K, ...]."""
        shape = self.answer.problem.batch_shape + self.answer.factors[self.member.factor].lead
        part = x[:, self.member.places, :width]
        return part.reshape(shape + part.shape[2:])

    def _dressed(self, z: Tensor) -> Tensor:
        structure = self.answer.factors[self.member.factor].structure
        return z.to(structure.event_dtype or self.answer.problem.dtype)


def _finite(x: Tensor) -> Tensor:
    """Forbidden variables have no part in sums."""
    return torch.where(torch.isneginf(x), 0, x)
