"""IMLE: the best structure of noisy scores, and the one that is best after a step against the loss's slope."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structlat.errors import ArgumentError
from structlat.estimators.base import Call, Estimate, check_positive, count_of
from structlat.estimators.perturbed import Noisy, Perturbing, best, draw
from structlat.estimators.score_function import leave_one_out
from structlat.structure import Structure


class IMLE(Perturbing):
    """Implicit maximum likelihood: z is best for noisy inputs, z' for the same less ``step`` times the loss's slope.

    (parts of z - parts of z') / step is the gradient for scores and extra scores, and loss(z) is differentiated for
    what is inside. For any space, through ``argmax`` alone; for losses that have a derivative in the vertex
    (``vertices=True`` wherever z is not its own). Biased: a loss is judged by its slope at z, and the slope of
    E[parts] by a difference. A training step asks the oracle twice a sample; once more where there is one sample alone,
    for a baseline of the entropy's gradient.

    Parameters
    ----------
    structure : Structure
    samples : int
        For each row.
    step : float
        Lambda of the paper, above 0. Smaller ones are less biased and vary more.
    scale : float
        What the noise is multiplied by, above 0.
    noise : {"gumbel", "normal"}
        As in :class:`PerturbAndMAP`.
    vertices, generator
        As in :class:`Estimator`.

    Notes
    -----
    Niepert et al. (2021), *Implicit MLE: Backpropagating Through Discrete Exponential Family Distributions*; divided by
    lambda, as in Minervini et al. (2023). The loss's slope is taken at the call, which goes back through the loss once
    more; not where no derivative in the scores can be asked for. In evaluation mode the estimate is the same.
    """

    name = "imle"

    def __init__(
        self,
        structure: Structure,
        samples: int = 1,
        step: float = 1.0,
        scale: float = 1.0,
        noise: str = "gumbel",
        *,
        vertices: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(structure, samples, 1, scale, noise, vertices=vertices, generator=generator)
        self.step = check_positive("step", step)

    def _estimate(self, call: Call) -> Estimate:
        if not call.loss.takes_vertices():
            raise ArgumentError(
                f"vertices: got False; 'imle' expects True for {self.structure!r}: the loss needs a derivative in what "
                "it is given"
            )
        drawn = draw(self, call)
        a = self.structure.vertex(drawn.dressed(drawn.z)).to(call.scores.dtype).requires_grad_()
        losses = call.loss.of_vertices(a)
        surrogate = losses
        if torch.is_grad_enabled() and any(x.requires_grad for x in (call.scores, *call.extra)):
            surrogate = losses + self._pulled(drawn, _slope(losses, a)).to(losses.dtype)
        entropy = drawn.entropy(self._gain(drawn))
        return Estimate(surrogate.mean(0), losses.mean(0), entropy, count_of(self.samples, entropy))

    def _pulled(self, drawn: Noisy, slope: Tensor) -> Tensor:
        """Scores of z less those of z', over the step, [S, *batch]: their slopes are the estimate.

        NaN where the loss's slope is not finite: so is then the gradient, as behind any other module.
        """
        problem, (scores, *extra) = drawn.problem, drawn.asked
        slope = slope.reshape(scores.shape)
        fine = slope.isfinite().flatten(start_dim=2).all(-1)
        moved = torch.where(fine.reshape(fine.shape + (1,) * (slope.ndim - 2)), slope, 0)
        better = best(problem, [scores - self.step * moved, *extra])
        inputs = (problem.scores, *problem.extra)
        one, other = (self.structure.score(z, *inputs) for z in (drawn.z, better))
        return drawn.batched((one - other) / self.step + torch.where(fine, 0.0, torch.nan) * drawn.log_density)

    def _gain(self, drawn: Noisy) -> Tensor:
        """What the entropy's slopes follow, [S, B], less a baseline: other samples, or what is best without noise."""
        gain = -drawn.scores(drawn.z) / self.scale
        if self.samples > 1:
            return gain - leave_one_out(gain)
        if not torch.is_grad_enabled():
            return gain
        return gain + drawn.scores(drawn.without_noise().unsqueeze(0)) / self.scale

    def settings(self) -> dict[str, Any]:
        """Samples, step and noise."""
        return super().settings() | {"step": self.step}


def _slope(losses: Tensor, a: Tensor) -> Tensor:
    """How losses [S, *batch] change with their vertices a [S, *batch, *shape]."""
    slope = None
    if losses.requires_grad:
        (slope,) = torch.autograd.grad(losses.sum(), a, retain_graph=True, allow_unused=True)
    if slope is None:
        raise ArgumentError(
            "loss_fn: has no derivative in what it was given; 'imle' expects one, 'perturb-and-map' needs none"
        )
    return slope
