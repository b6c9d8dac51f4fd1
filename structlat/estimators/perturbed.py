"""Structures that are best for noisy scores: what perturb-and-map and implicit MLE draw."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from structlat import opaque
from structlat.errors import InfeasibleError, check_count
from structlat.estimators.base import Call, Estimator
from structlat.estimators.noise import LAWS
from structlat.perturbation import check_noise
from structlat.problem import Problem, make_problem
from structlat.structure import Structure


class Perturbing(Estimator):
    """An estimator whose q is a law of ``argmax``: z is best for scores and extra scores with noise on all of them.

    The entropy is that of the perturbation, -Omega of Berthet et al. (2020): the mean of <noise, parts of z>, from the
    draws of the call; so is its gradient. With Gumbel noise it is that of q where choices are independent
    (:class:`structlat.Categorical`, :class:`structlat.BitVector`).
    """

    def __init__(
        self,
        structure: Structure,
        samples: int,
        least: int,
        scale: float,
        noise: str,
        *,
        vertices: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        check_noise(scale, noise)
        super().__init__(structure, vertices=vertices, generator=generator)
        self.samples = check_count("samples", samples, least)
        self.scale, self.noise = float(scale), noise

    def settings(self) -> dict[str, Any]:
        """Samples and noise."""
        return {"samples": self.samples, "scale": self.scale, "noise": self.noise}


class Noisy(NamedTuple):
    """Noise for S draws of each of B rows, and the structures that were best with it."""

    problem: Problem
    noise: list[Tensor]  # [S, B, *shape], and the like for each of the caller's extra scores; not scaled
    asked: list[Tensor]  # the inputs with noise
    z: Tensor  # [S, B, *event]
    log_density: Tensor  # [S, B]: not its value, but its slopes in scores and extra scores, as those of a log_prob

    def scores(self, z: Tensor) -> Tensor:
        """What z [S, B, *event] score without noise, [S, B]; without a graph."""
        inputs = (x.detach() for x in (self.problem.scores, *self.problem.extra))
        return self.problem.structure.score(z, *inputs)

    def without_noise(self) -> Tensor:
        """The best structures, [B, *event]."""
        problem = self.problem
        z: Tensor = opaque.argmax(*problem.detached(), problem.structure.handle, problem.batch_shape)
        return z

    def entropy(self, signal: Tensor) -> Tensor:
        """<noise, parts of z>, [*batch]. Its slopes are those of E[signal], of ``-scores(z) / scale`` less a baseline.

        Noise makes of the best score a function of the inputs whose slopes are E[parts]: when they move, what moves in
        <noise, parts> = (best score - scores(z)) / scale is the second term alone.
        """
        own = (torch.zeros_like(x) for x in own_extra(self.problem))
        number = self.problem.structure.score(self.z, *self.noise, *own)
        slopes = signal * self.log_density
        return self.problem.unflatten((number + (slopes - slopes.detach())).mean(0)).to(self.problem.probs_dtype)

    def batched(self, x: Tensor) -> Tensor:
        """[S, B] to [S, *batch]."""
        return x.reshape(len(x), *self.problem.batch_shape)

    def dressed(self, z: Tensor) -> Tensor:
        """Structures [S, B, *event] as the caller has them: [S, *batch, *event]."""
        return torch.stack([self.problem.dressed(x) for x in z])


def draw(perturbing: Perturbing, call: Call) -> Noisy:
    """Draw noise and ask for the best structures."""
    structure, scale = perturbing.structure, perturbing.scale
    problem = make_problem(structure, call.scores, call.extra)
    # where a structure may contain another, leaving a part off is a choice of its own, with noise of its own
    both_ways = perturbing.noise == "gumbel" and not structure.antichain
    made, fall = LAWS["logistic" if both_ways else perturbing.noise]
    rows = len(problem.scores)
    given = [problem.scores, *problem.extra[: len(problem.extra) - len(structure.own_extra)]]
    sizes = (torch.Size([perturbing.samples, rows, *x.shape[1:]]) for x in given)
    noise = [made(size, call.scores.device, call.generator) for size in sizes]
    asked = [x.detach() + scale * n for x, n in zip(given, noise, strict=True)]
    finite = (torch.where(torch.isneginf(x), 0, x) for x in given)
    # the slopes alone are wanted: products with large scores would drown the loss, or overflow
    along = [fall(n) / scale * (x - x.detach()) for x, n in zip(finite, noise, strict=True)]
    log_density = torch.stack([x.reshape(*x.shape[:2], x.shape[2:].numel()).sum(-1) for x in along]).sum(0)
    return Noisy(problem, noise, asked, best(problem, asked), log_density)


def best(problem: Problem, inputs: list[Tensor]) -> Tensor:
    """Structures [S, B, *event] for inputs [S, B, ...], by one call of the oracle."""
    lead = inputs[0].shape[:2]

    def repeated(x: Tensor) -> Tensor:
        return x.detach().expand(lead[0], *x.shape).flatten(end_dim=1) if len(x) == lead[1] else x.detach()

    scores, *extra = (x.flatten(end_dim=1) for x in inputs)
    extra += [repeated(x) for x in own_extra(problem)]
    handle = problem.structure.handle
    try:
        z: Tensor = opaque.argmax(scores, extra, handle, torch.Size([lead.numel()]))
    except InfeasibleError:
        opaque.argmax(*problem.detached(), handle, problem.batch_shape)  # names the rows as the caller knows them
        raise
    return z.reshape(*lead, *z.shape[1:])


def own_extra(problem: Problem) -> tuple[Tensor, ...]:
    """The extra scores that the space brings itself."""
    return problem.extra[len(problem.extra) - len(problem.structure.own_extra) :]
