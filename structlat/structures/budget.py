"""BudgetBitVector: n bits of which at most, or exactly, so many are on."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles import budget as oracle
from oracles.compiled import Compiled
from structlat.closed_form import ClosedForm
from structlat.errors import ArgumentError, check_count
from structlat.structure import ENUMERATION_LIMIT, Structure
from structlat.structures._bits_forms import Comb
from structlat.structures._host import check_event, is_binary, refuse_past, to_numpy, to_torch


class BudgetBitVector(Structure):
    """Bit-vectors with at most, or exactly, ``budget`` ones: scores [*, n]; z [n] of 0. and 1., its own vertex.

    Parameters
    ----------
    n : int
        How many bits, at least 1.
    budget : int
        From 0 to n.
    exact : bool
        Exactly ``budget`` ones (k-subsets) instead of at most.
    symmetric : bool
        Regularise being off like being on; see :class:`BitVector`.
    """

    def __init__(self, n: int, budget: int, exact: bool = False, symmetric: bool = True) -> None:
        self.n = check_count("n", n)
        self.budget = check_count("budget", budget, 0)
        if self.budget > self.n:
            raise ArgumentError(f"budget: got {budget}; expected at most n = {n}")
        self.exact = bool(exact)
        self.antichain = self.exact
        self.shape = torch.Size([self.n])
        self.symmetric = bool(symmetric)

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The ``budget`` best bits; of them only those with a positive score unless ``exact``."""
        return to_torch(oracle.argmax(to_numpy(scores), self.budget, self.exact), scores, scores.dtype)

    def compiled(self) -> Compiled:
        """The oracle as C functions."""
        return oracle.compiled(self.n, self.budget, self.exact)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best subsets, by a heap over sorted scores."""
        z, valid = oracle.topk(to_numpy(scores), k, self.budget, self.exact)
        return to_torch(z, scores, scores.dtype), to_torch(valid, scores)

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every subset, [|Z|, n]."""
        refuse_past(limit, self.cardinality(), repr(self))
        return torch.from_numpy(oracle.enumerate(self.n, self.budget, self.exact)).to(torch.float64)

    def cardinality(self) -> int:
        """A binomial coefficient, or a sum of them."""
        return oracle.cardinality(self.n, self.budget, self.exact)

    def contains(self, z: Tensor) -> Tensor:
        """Whether z is a 0/1 vector within the budget."""
        check_event(self, z)
        ones = (z == 1).sum(-1)
        return is_binary(z) & (ones == self.budget if self.exact else ones <= self.budget)

    def closed_form(self, scores: Tensor, *extra: Tensor) -> ClosedForm:
        """Scores less a threshold, clipped, decomposed into n + 1 subsets at most."""
        return Comb(scores, self.budget, self.exact)

    def __repr__(self) -> str:
        return f"BudgetBitVector({self.n}, {self.budget}, exact={self.exact}, symmetric={self.symmetric})"
