"""SumAndSample: the most probable structures exactly, and one sample for all the others."""

from __future__ import annotations

from typing import Any

import torch

from structlat.errors import ArgumentError, check_count
from structlat.estimators.base import Call, Estimate
from structlat.estimators.posterior import Listed, Sampling, Summed
from structlat.estimators.rest import split_listed, split_summed
from structlat.structure import Structure
from structlat.tractable import has_sums

FEW = 4096  # structures: to list them is no work


class SumAndSample(Sampling):
    """The sum of q(z) loss(z) over the ``k`` most probable z, and one sample of q among all others: unbiased.

    q is softmax over all structures. Without baselines, the variance is at most that of :class:`ScoreFunction` with one
    sample. It goes to 0 as q gathers on k structures.

    Parameters
    ----------
    structure : Structure
    k : int
        How many are summed over.
    baseline : {None, "summed"}
        What all losses are compared with in the gradient for the scores: nothing, or the mean loss of those that are
        summed over, by their probabilities. It costs nothing, and where losses are far from 0, as negative
        log-likelihoods are, much of the variance is theirs.
    vertices, generator
        As in :class:`Estimator`.

    Notes
    -----
    Liu et al. (2019), *Rao-Blackwellized Stochastic Gradients for Discrete Distributions*. The
    others are left out where their probability is within rounding, 1e-12 together. In evaluation mode the estimate is
    the same.
    """

    name = "sum-and-sample"

    def __init__(
        self,
        structure: Structure,
        k: int = 1,
        baseline: str | None = None,
        *,
        vertices: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if baseline not in (None, "summed"):
            raise ArgumentError(f"baseline: got {baseline!r}; expected None or 'summed'")
        super().__init__(structure, 1, vertices=vertices, generator=generator)
        self.k = check_count("k", k)
        self.baseline = baseline
        self._listed = not has_sums(structure) or _few(structure)

    def _estimate(self, call: Call) -> Estimate:
        made = (self.structure, call.scores, call.extra)
        if self._listed:
            listed = Listed(*made)
            entropy, split = listed.entropy(), split_listed(listed, self.k, call.generator)
        else:
            summed = Summed(*made)
            entropy, split = summed.entropy(), split_summed(summed, self.k, call.generator)
        losses = call.loss(split.z, split.there)
        log_prob = torch.where(split.there, split.log_prob, 0)
        p = torch.where(split.there[:-1], log_prob[:-1].exp(), 0)
        weights = torch.cat([p, split.rest.unsqueeze(0)]).detach()
        signal = losses.detach()
        if self.baseline is not None:
            # in logarithms: where there are many structures, the probability of the best is 0 in float32
            shares = torch.where(split.there[:-1], log_prob[:-1].detach(), -torch.inf).softmax(0)
            signal = signal - (shares * signal[:-1]).sum(0)
        # the slope of p is that of log q, times p; of the one that stands for all others, times their probability
        surrogate = (weights * (signal * log_prob + losses)).sum(0)
        return Estimate(surrogate, (weights * losses).sum(0), entropy, split.there.sum(0))

    def settings(self) -> dict[str, Any]:
        """How many are summed over, and the baseline."""
        return {"k": self.k, "baseline": self.baseline}


def _few(structure: Structure) -> bool:
    try:
        structure.enumerate(max(FEW, structure.shape.numel()))
    except ArgumentError:
        return False
    return True
