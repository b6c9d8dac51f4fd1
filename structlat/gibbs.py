"""Gibbs: softmax over all structures of a space whose sums are tractable; what sampling estimators draw from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from structlat.distribution import InStructure
from structlat.errors import ArgumentError
from structlat.problem import Problem, make_problem
from structlat.structure import Structure
from structlat.tractable import sums


class Gibbs(Distribution):
    """p(z) = exp(score(z)) / sum_z' exp(score(z')), over every structure, through log-partition and sampler.

    A torch distribution. Nothing is enumerated: ``log_prob``, ``entropy`` and ``mean`` come from the log-partition
    function and its derivatives, exactly, and are differentiable in scores and extra scores.

    Parameters
    ----------
    structure : Structure
        One that has ``log_partition`` and ``sample``; NotImplementedError, with what to use instead, for others.
    scores : Tensor [*batch, *shape]
    extra : Tensors that broadcast to [*batch, *extra_shape]

    Raises
    ------
    ArgumentError
        Bad scores; InfeasibleError where a row has no feasible structure.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (as torch declares it)

    def __init__(self, structure: Structure, scores: Tensor, *extra: Tensor, validate_args: bool | None = None) -> None:
        problem = make_problem(structure, scores, extra)
        self.structure = structure
        self._total, self._moments = sums(problem)
        bad = torch.isneginf(self._total.detach())
        self._problem: Problem = problem.with_scores(problem.feasible(problem.scores, bad))
        super().__init__(problem.batch_shape, torch.Size(structure.event_shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The constraint "is a structure of this space"."""
        return InStructure(self.structure)

    @property
    def log_partition(self) -> Tensor:
        """The log-partition log sum_z exp(score(z)), [*batch], in nats; float32 or wider."""
        return self._problem.unflatten(self._total).to(self._problem.probs_dtype)

    @property
    def mean(self) -> Tensor:
        """The marginals E[a_z], [*batch, *shape]."""
        return self._problem.unflatten(self._moments[0]).to(self._problem.dtype)

    @property
    def marginals(self) -> Tensor:
        """The field's name for ``mean``."""
        return self.mean

    @property
    def extra_marginals(self) -> tuple[Tensor, ...]:
        """E[n_z], how often each extra part is used: a tuple of [*batch, *extra_shape]; of the caller's."""
        given = self._moments[1 : len(self._moments) - len(self.structure.own_extra)]
        return tuple(self._problem.unflatten(x).to(self._problem.dtype) for x in given)

    @property
    def variance(self) -> Tensor:
        """Var[a_z] of each part, [*batch, *shape]."""
        return self.mean * (1 - self.mean)

    @property
    def mode(self) -> Tensor:
        """The MAP structure, [*batch, *event]."""
        scores, extra = self._problem.detached()
        rows = len(scores)
        z = self.structure.argmax(scores, *(x.expand(rows, *x.shape[1:]) for x in extra))
        return self._problem.dressed(z)

    def entropy(self) -> Tensor:
        """-sum_z p log p, in nats, [*batch]: log-partition less the expected score."""
        expected = torch.zeros_like(self._total)
        for mean, x in zip(self._moments, (self._problem.scores, *self._problem.extra), strict=True):
            used = mean * torch.where(torch.isneginf(x), 0, x)  # what is forbidden has no marginal
            expected = expected + used.flatten(start_dim=1).sum(-1)
        return self._problem.unflatten(self._total - expected).to(self._problem.probs_dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of z [*sample, *batch, *event]; -inf where it uses a forbidden part."""
        event = len(self.event_shape)
        lead = value.shape[: value.ndim - event]
        if value.shape[len(lead) :] != self.event_shape or value.ndim < event:
            raise ArgumentError(
                f"value: got shape {tuple(value.shape)}; expected [*sample, *batch, *event] with event shape "
                f"{tuple(self.event_shape)}"
            )
        if self._validate_args:
            self._validate_sample(value)
        problem = self._problem
        z = value.expand(torch.broadcast_shapes(lead, self.batch_shape) + self.event_shape)
        scores, *extra = (
            x.reshape(*self.batch_shape, *x.shape[1:]) if len(x) == len(problem.scores) else x[0]
            for x in (problem.scores, *problem.extra)
        )
        total = self.structure.score(z, scores, *extra) - problem.unflatten(self._total)
        return total.to(problem.probs_dtype)

    def sample(
        self, sample_shape: torch.Size | list[int] | tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw z [*sample_shape, *batch, *event]; from torch's generator, or from one of your own."""
        given = (x.detach() for x in self._problem.given())
        z = self.structure.sample(*given, shape=torch.Size(sample_shape), generator=generator)
        return z.to(self.structure.event_dtype or self._problem.dtype)

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None) -> Gibbs:
        """The same distribution with its batch dimensions broadcast to ``batch_shape``."""
        scores, *extra = self._problem.given()
        scores = scores.expand(torch.Size(batch_shape) + scores.shape[len(self.batch_shape) :])
        return Gibbs(self.structure, scores.to(self._problem.dtype), *extra)

    def __repr__(self) -> str:
        return (
            f"Gibbs(structure={self.structure!r}, batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)})"
        )
