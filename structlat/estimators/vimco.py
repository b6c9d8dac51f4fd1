"""VIMCO: several samples for one bound, each compared with what it would have been without it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from structlat.estimators.base import Call, Estimate, count_of
from structlat.estimators.posterior import Sampling
from structlat.structure import Structure


class VIMCO(Sampling):
    """Unbiased for another objective than E[loss], a bound from several samples z_1, ..., z_S of q.

    With ``importance``, loss = -log p(x, z) and the entropy H of q: -E log 1/S sum_s exp(-loss(z_s)) / q(z_s) + H, of
    which training subtracts the entropy (as from E[loss], for the ELBO) to be left with the importance-weighted bound
    on -log sum_z exp(-loss(z)) (Burda et al. 2016). Without: -E log 1/S sum_s exp(-loss(z_s)), a bound on the loss
    -log E[exp(-loss)] of the mixture that q makes. Both would be E[loss] for a single sample, and are below it.

    Parameters
    ----------
    structure : Structure
    samples : int
        S, for each row, at least 2.
    importance : bool
        Which of the two.
    vertices, generator
        As in :class:`Estimator`.

    Notes
    -----
    Mnih and Rezende (2016), *Variational Inference for Monte Carlo Objectives*: the baseline of a sample puts the
    geometric mean of the others' weights in place of its own. q is softmax over all structures. In evaluation mode the
    estimate is the same.
    """

    name = "vimco"

    def __init__(
        self,
        structure: Structure,
        samples: int = 5,
        importance: bool = True,
        *,
        vertices: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(structure, samples, 2, vertices=vertices, generator=generator)
        self.importance = bool(importance)

    def _estimate(self, call: Call) -> Estimate:
        q = self._posterior(call)
        z, log_prob = q.draw(self.samples, call.generator)
        losses = call.loss(z)
        entropy = q.entropy()
        weights = -losses - log_prob if self.importance else -losses
        bound = weights.logsumexp(0) - math.log(self.samples)
        signal = (bound - without_each(weights)).detach()
        objective = -(signal * log_prob).sum(0) - bound
        value = -bound
        if self.importance:
            objective, value = objective + entropy, value + entropy
        return Estimate(objective, value, entropy, count_of(self.samples, entropy))

    def settings(self) -> dict[str, Any]:
        """The samples and the objective."""
        return {"samples": self.samples, "importance": self.importance}


def without_each(weights: Tensor) -> Tensor:
    """The bound with the mean of the others in place of each of ``weights`` [S, *batch], which are logarithms."""
    count = len(weights)
    mean = (weights.sum(0) - weights) / (count - 1)
    own = torch.eye(count, dtype=torch.bool, device=weights.device).reshape(count, count, *(1,) * (weights.ndim - 1))
    return torch.where(own, mean, weights).logsumexp(1) - math.log(count)
