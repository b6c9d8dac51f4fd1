"""ClosedForm: what a space brings that has SparseMAP without iteration."""

from __future__ import annotations

import abc

import torch
from torch import Tensor


class ClosedForm(abc.ABC):
    """SparseMAP at gamma = 1 for ``scores`` [B, *shape] (float64, with their graph), in differentiable torch.

    Each part is computed when it is asked for: whoever reads the means alone has no structure made. p is listed over
    candidates, of which most may have probability 0.
    """

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def infeasible(self) -> Tensor | None:
        """Rows in which every structure uses a forbidden part, [B] bool; None where there cannot be any."""
        return None

    @abc.abstractmethod
    def mean(self) -> Tensor:
        """The marginals [B, *shape], with the true derivative: also where that through p is not (at ties)."""

    @abc.abstractmethod
    def weights(self) -> Tensor:
        """Probabilities p [B, M] of the candidates, with its graph; its mean is ``mean``."""

    @abc.abstractmethod
    def structures(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The candidates ``index`` [B, K], which have p > 0: z [B, K, *event_shape], 0/1 vectors in ``dtype``."""
