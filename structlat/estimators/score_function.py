"""ScoreFunction: samples, each made likelier the more its loss is below a baseline (REINFORCE)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structlat.errors import ArgumentError
from structlat.estimators.base import Call, Estimate, count_of
from structlat.estimators.posterior import Sampling
from structlat.structure import Structure

NAMES = {None: "sfe", "average": "sfe", "self-critic": "sfe+", "leave-one-out": "rloo"}


class ScoreFunction(Sampling):
    """The score-function estimator, (loss(z) - b) log q(z) + loss(z) for samples z of q, b held fixed: unbiased.

    q is softmax over all structures: :class:`structlat.Gibbs` where the space has sums, else enumerated.

    Parameters
    ----------
    structure : Structure
    baseline : {None, "average", "self-critic", "leave-one-out"}
        "average": the mean of the losses of all training steps before this one, those that are not finite left out, 0
        at the first. "self-critic": the loss
        of another sample of q, one for each, from which nothing else is learned. "leave-one-out": the mean loss of the
        row's other samples, of which there have to be two at least (Kool et al. 2019).
    samples : int
        For each row.
    momentum : float, optional
        "average" becomes (1 - momentum) average + momentum loss at each step. Default: all steps count the same.
    vertices, generator
        As in :class:`Estimator`.

    Notes
    -----
    Williams (1992), *Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning*. In
    evaluation mode the estimate is the same, and the average stays. Each process of a distributed run has an average of
    its own, unless something shares buffers: DistributedDataParallel gives all processes that of the first.
    """

    average: Tensor
    steps: Tensor

    def __init__(
        self,
        structure: Structure,
        baseline: str | None = None,
        samples: int = 1,
        momentum: float | None = None,
        *,
        vertices: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if baseline not in NAMES:
            raise ArgumentError(f"baseline: got {baseline!r}; expected one of {', '.join(map(repr, NAMES))}")
        if momentum is not None and not 0 < momentum <= 1:
            raise ArgumentError(f"momentum: got {momentum!r}; expected a number above 0 and at most 1, or None")
        self.name = NAMES[baseline]
        least = 2 if baseline == "leave-one-out" else 1
        super().__init__(structure, samples, least, vertices=vertices, generator=generator)
        self.baseline, self.momentum = baseline, momentum
        if baseline == "average":
            self.register_buffer("average", torch.zeros(()))
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def _estimate(self, call: Call) -> Estimate:
        q = self._posterior(call)
        asked = 2 * self.samples if self.baseline == "self-critic" else self.samples
        z, log_prob = q.draw(asked, call.generator)
        every = call.loss(z)
        losses, others = every[: self.samples], every[self.samples :].detach()
        signal = losses.detach()
        if self.baseline == "self-critic":
            signal = signal - others
        elif self.baseline == "leave-one-out":
            signal = signal - leave_one_out(signal)
        elif self.baseline == "average":
            signal = signal - self._averaged(signal)
        surrogate = (signal * log_prob[: self.samples] + losses).mean(0)
        entropy = q.entropy()
        return Estimate(surrogate, losses.mean(0), entropy, count_of(asked, entropy))

    @torch.no_grad()
    def _averaged(self, losses: Tensor) -> Tensor:
        """The average before these losses, which enter it in training."""
        before = self.average.clone()
        if self.training and losses.numel():
            mean = losses.mean()
            counts = mean.isfinite()  # a loss that overflowed once, as with scaled gradients, is not to stay
            self.steps += counts
            share = 1 / self.steps if self.momentum is None else self.momentum
            self.average.copy_(torch.where(counts, self.average + share * (mean - self.average), self.average))
        return before

    def settings(self) -> dict[str, Any]:
        """Baseline and samples."""
        return {"baseline": self.baseline, "samples": self.samples}


def leave_one_out(losses: Tensor) -> Tensor:
    """For each of the losses [S, *batch] the mean of the row's others."""
    return (losses.sum(0) - losses) / (len(losses) - 1)
