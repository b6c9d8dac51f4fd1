"""GumbelSoftmax: samples relaxed to points between vertices, which have a derivative in the scores."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from structlat.errors import ArgumentError, check_count
from structlat.estimators.base import Call, Estimate, Estimator, check_positive, count_of
from structlat.estimators.noise import gumbel, logistic
from structlat.gibbs import Gibbs
from structlat.structure import Structure
from structlat.structures.bits import BitVector
from structlat.structures.categorical import Categorical


class GumbelSoftmax(Estimator):
    """Relaxed samples: softmax((scores + Gumbel noise) / temperature), for bits the sigmoid with logistic noise.

    Biased: the loss is asked about points between vertices. At temperature 0 they would be samples of q, softmax over
    all structures. For :class:`structlat.Categorical`, whose loss has to take vertices (``vertices=True``), and
    :class:`structlat.BitVector`.

    Parameters
    ----------
    structure : Structure
    hard : bool
        Straight-through: the loss gets the vertex nearest to the relaxed sample, which is a sample of q, and the
        derivative is taken at the relaxed one. Biased too.
    temperature : float
        At the start, above 0.
    rate, least, every : float, float, int
        For :meth:`anneal`.
    samples : int
        For each row.
    vertices, generator
        As in :class:`Estimator`.

    Notes
    -----
    Jang et al. (2017), *Categorical Reparameterization with Gumbel-Softmax*; Maddison et al. (2017), *The Concrete
    Distribution*. The temperature is a buffer: checkpoints restore it. In evaluation mode the estimate is the same.
    """

    temperature: Tensor

    def __init__(
        self,
        structure: Structure,
        hard: bool = False,
        temperature: float = 1.0,
        rate: float = 1e-4,
        least: float = 0.5,
        every: int = 1000,
        samples: int = 1,
        *,
        vertices: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(structure, vertices=vertices, generator=generator)
        self.hard = bool(hard)
        self.name = "st-gumbel" if hard else "gumbel"
        if not isinstance(structure, (Categorical, BitVector)):
            raise self._refuse("it relaxes what one independent choice is made of: Categorical and BitVector")
        self.start, self.least = check_positive("temperature", temperature), check_positive("least", least)
        self.rate = check_positive("rate", rate) if rate else 0.0
        self.every = check_count("every", every)
        self.samples = check_count("samples", samples)
        self.register_buffer("temperature", torch.tensor(self.start))

    def anneal(self, step: int) -> float:
        """Set the temperature for a training step, and return it: max(least, start exp(-rate step)).

        The step is rounded down to a multiple of ``every``. A start below ``least`` stays.
        """
        step = check_count("step", step, 0) // self.every * self.every
        value = max(min(self.least, self.start), self.start * math.exp(-self.rate * step))
        self.temperature.fill_(value)
        return value

    def _estimate(self, call: Call) -> Estimate:
        bits = isinstance(self.structure, BitVector)
        if not call.loss.takes_vertices():
            raise ArgumentError(
                f"vertices: got False; {self.name!r} expects True for {self.structure!r}: a relaxed sample is no "
                "structure, but a point between vertices"
            )
        q = Gibbs(self.structure, call.scores, *call.extra, validate_args=False)
        noise = logistic if bits else gumbel
        size = torch.Size([self.samples, *call.scores.shape])
        perturbed = call.scores.double() + noise(size, call.scores.device, call.generator)
        cooled = perturbed / self.temperature
        a = cooled.sigmoid() if bits else cooled.softmax(-1)
        if self.hard:
            best = (perturbed > 0) if bits else _one_hot(perturbed)
            a = best + (a - a.detach())
        losses = call.loss.of_vertices(a.to(call.scores.dtype))
        entropy = q.entropy()
        return Estimate(losses.mean(0), losses.mean(0), entropy, count_of(self.samples, entropy))

    def settings(self) -> dict[str, Any]:
        """Temperature and samples."""
        return {"hard": self.hard, "temperature": float(self.temperature), "samples": self.samples}


def _one_hot(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-1], device=x.device) == x.argmax(-1, keepdim=True)
