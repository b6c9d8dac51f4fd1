"""Tractable: spaces in which sums over all structures can be computed, and so softmax over them.

A subclass brings two recursions on a flat batch, its log-partition function and a sampler; the rest is written here.
"""

from __future__ import annotations

import abc
import functools

import torch
from torch import Tensor

from structlat.problem import Problem, make_problem
from structlat.structure import Structure


class Tractable(Structure):
    """A :class:`Structure` with a log-partition function, softmax marginals and exact samples."""

    @abc.abstractmethod
    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The sum as log sum_z exp(score(z)), [B], for scores [B, *shape] and extra [B or 1, *extra_shape], in float64.

        In torch operations that can be differentiated twice and transformed; -inf, with a gradient of 0, where nothing
        is feasible.
        """

    @abc.abstractmethod
    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """``count`` draws z [count, B, *event_shape] for scores as above, all of whose rows are feasible."""

    def log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The log-partition log sum_z exp(score(z)), in nats: -inf where every structure uses a forbidden part.

        Its gradient are the marginals, in the scores and in the extra scores; it can be differentiated twice.

        Parameters
        ----------
        scores : Tensor [*batch, *shape]
        extra : Tensors that broadcast to [*batch, *extra_shape]

        Returns
        -------
        Tensor [*batch], in the scores' dtype, or in float32 where that is less

        Raises
        ------
        ArgumentError
            Wrong shapes, dtypes, NaN, +inf.
        """
        problem = make_problem(self, scores, extra)
        return problem.unflatten(self._log_partition(problem.scores, *problem.extra)).to(problem.probs_dtype)

    def marginals(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """E[a_z] under softmax over all structures, [*batch, *shape]. Differentiable.

        Takes what :meth:`log_partition` takes; InfeasibleError where nothing is feasible.
        """
        problem = make_problem(self, scores, extra)
        total, moments = sums(problem)
        return problem.unflatten(problem.feasible(moments[0], torch.isneginf(total.detach()))).to(problem.dtype)

    def sample(
        self,
        scores: Tensor,
        *extra: Tensor,
        shape: torch.Size | tuple[int, ...] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Exact and independent draws z [*shape, *batch, *event_shape] from softmax over all structures.

        Takes what :meth:`log_partition` takes, and a ``generator`` to draw from; default: torch's own.
        InfeasibleError where nothing is feasible.
        """
        problem = make_problem(self, scores, extra)
        shape = torch.Size(shape)
        with torch.no_grad():
            flat, more = problem.detached()
            flat = problem.feasible(flat, torch.isneginf(self._log_partition(flat, *more)))
            z = self._sample(flat, *more, count=shape.numel(), generator=generator)
        z = z.to(device=scores.device, dtype=self.event_dtype or problem.dtype)
        return z.reshape(shape + problem.batch_shape + torch.Size(self.event_shape))


def sums(problem: Problem) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The log-partition [B] of a problem, and its slopes: softmax marginals [B, *shape] and [B, *extra_shape]s.

    All are differentiable. The space's own ``log_partition`` is asked, which need not be that of :class:`Tractable`.
    """
    rows = len(problem.scores)
    # each row its own copy of what rows share: the slope is the row's
    inputs = (problem.scores, *(x.expand(rows, *x.shape[1:]) for x in problem.extra))
    pulled = torch.func.vjp(functools.partial(flat_log_partition, problem.structure), *inputs)
    total: Tensor = pulled[0]
    return total, pulled[1](torch.ones_like(total))


def has_sums(structure: Structure) -> bool:
    """Whether the space brings a log-partition and a sampler: as :class:`Tractable`, or by methods of its own."""
    names = ("log_partition", "sample")
    return all(getattr(type(structure), name) is not getattr(Structure, name) for name in names)


def flat_log_partition(structure: Structure, scores: Tensor, *extra: Tensor) -> Tensor:
    """The log-partition [B] for scores and extra, the structure's own included, as ``_log_partition`` takes them."""
    if isinstance(structure, Tractable):
        return structure._log_partition(scores, *extra)
    return structure.log_partition(scores, *extra[: len(extra) - len(structure.own_extra)])


def flat_sample(
    structure: Structure, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None
) -> Tensor:
    """``count`` draws z [count, B, *event_shape] for what ``_sample`` takes."""
    if isinstance(structure, Tractable):
        return structure._sample(scores, *extra, count=count, generator=generator)
    given = extra[: len(extra) - len(structure.own_extra)]
    return structure.sample(scores, *given, shape=(count,), generator=generator)
