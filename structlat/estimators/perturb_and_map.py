"""PerturbAndMAP: the best structures of noisy scores, and a gradient that follows from the noise alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structlat.errors import ArgumentError
from structlat.estimators.base import Call, Estimate, count_of
from structlat.estimators.perturbed import Perturbing, draw
from structlat.estimators.score_function import leave_one_out
from structlat.structure import Structure

BASELINES = (None, "map", "leave-one-out")


class PerturbAndMAP(Perturbing):
    """z is best for noisy inputs; (loss(z) - b) times the slope of the noise's log-density, and loss(z).

    For any space, through ``argmax`` alone. Unbiased for the law q that noise on scores and extra scores makes; with
    Gumbel noise it is softmax(score / scale) for :class:`structlat.Categorical` and :class:`structlat.BitVector`.
    Elsewhere, as an estimate for softmax over all structures, it is biased.

    Parameters
    ----------
    structure : Structure
    samples : int
        For each row.
    scale : float
        What the noise is multiplied by, above 0.
    noise : {"gumbel", "normal"}
        As in :func:`structlat.perturb_and_map`, whose law it is where there are no extra scores.
    baseline : {None, "map", "leave-one-out"}
        b: the loss of the structure that is best without noise, at the cost of one more call; or the mean loss of the
        row's other samples, of which there have to be two at least.
    vertices, generator
        As in :class:`Estimator`.

    Notes
    -----
    Berthet et al. (2020), *Learning with Differentiable Perturbed Optimizers*. In evaluation mode the estimate is the
    same.
    """

    name = "perturb-and-map"

    def __init__(
        self,
        structure: Structure,
        samples: int = 1,
        scale: float = 1.0,
        noise: str = "gumbel",
        baseline: str | None = "map",
        *,
        vertices: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if baseline not in BASELINES:
            raise ArgumentError(f"baseline: got {baseline!r}; expected one of {', '.join(map(repr, BASELINES))}")
        least = 2 if baseline == "leave-one-out" else 1
        super().__init__(structure, samples, least, scale, noise, vertices=vertices, generator=generator)
        self.baseline = baseline

    def _estimate(self, call: Call) -> Estimate:
        drawn = draw(self, call)
        z = drawn.z
        if self.baseline == "map":
            z = torch.cat([z, drawn.without_noise().unsqueeze(0)])
        every = call.loss(drawn.dressed(z))
        losses = every[: self.samples]
        log_density = drawn.batched(drawn.log_density).to(losses.dtype)
        surrogate = (self._compared(every.detach()) * log_density + losses).mean(0)
        entropy = drawn.entropy(self._compared(-drawn.scores(z) / self.scale))
        return Estimate(surrogate, losses.mean(0), entropy, count_of(len(z), entropy))

    def _compared(self, every: Tensor) -> Tensor:
        """Values [S, ...] of the samples, of [S or S + 1, ...], less the baseline."""
        own = every[: self.samples]
        if self.baseline is None:
            return own
        return own - (every[-1] if self.baseline == "map" else leave_one_out(own))

    def settings(self) -> dict[str, Any]:
        """Samples, noise and baseline."""
        return super().settings() | {"baseline": self.baseline}
