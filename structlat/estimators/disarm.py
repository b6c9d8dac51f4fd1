"""DisARM: pairs of opposite samples of bits."""

from __future__ import annotations

from typing import Any

import torch

from structlat.errors import check_count
from structlat.estimators.base import Call, Estimate, Estimator, count_of
from structlat.estimators.noise import uniform
from structlat.gibbs import Gibbs
from structlat.structure import Structure
from structlat.structures.bits import BitVector


class DisARM(Estimator):
    """For bits: two samples of q, each of them as far from the other as can be, and half their difference: unbiased.

    q is softmax over all bit-vectors: each bit is on with probability sigmoid(score). A bit learns only where the two
    samples differ in it.

    Parameters
    ----------
    structure : BitVector
    pairs : int
        For each row.
    vertices, generator
        As in :class:`Estimator`.

    Notes
    -----
    Dong et al. (2020), *DisARM: An Antithetic Gradient Estimator for Binary Latent Variables*. In evaluation mode the
    estimate is the same.
    """

    name = "disarm"

    def __init__(
        self, structure: Structure, pairs: int = 1, *, vertices: bool = False, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(structure, vertices=vertices, generator=generator)
        if not isinstance(structure, BitVector):
            raise self._refuse("it takes opposite samples of independent bits: BitVector")
        self.pairs = check_count("pairs", pairs)

    def _estimate(self, call: Call) -> Estimate:
        q = Gibbs(self.structure, call.scores, *call.extra, validate_args=False)
        entropy = q.entropy()
        x = call.scores.detach().double()
        u = uniform(torch.Size([self.pairs, *x.shape]), x.device, call.generator)
        one, other = u > (-x).sigmoid(), u < x.sigmoid()
        losses = call.loss(torch.cat([one, other]).to(call.scores.dtype)).unflatten(0, (2, self.pairs))
        differ = (one.double() - other.double()) * x.abs().sigmoid()
        slope = (losses[0] - losses[1]).detach().unsqueeze(-1) * differ / 2
        # what is forbidden is off in both, and its score may not be multiplied
        along = (slope * torch.where(torch.isneginf(call.scores), 0, call.scores)).sum(-1)
        value = losses.mean(0).mean(0)
        return Estimate(along.mean(0).to(value.dtype) + value, value, entropy, count_of(2 * self.pairs, entropy))

    def settings(self) -> dict[str, Any]:
        """The pairs."""
        return {"pairs": self.pairs}
