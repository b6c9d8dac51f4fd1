"""BudgetBitVector: n bits of which at most, or exactly, so many are on."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from oracles import budget as oracle
from oracles.compiled import Compiled
from structlat.closed_form import ClosedForm
from structlat.errors import ArgumentError, check_count, rows_text
from structlat.structure import ENUMERATION_LIMIT
from structlat.structures._bits_forms import Comb
from structlat.structures._host import check_event, is_binary, pick, refuse_past, to_numpy, to_torch
from structlat.structures._inside import logsumexp
from structlat.structures._lengths import past_length
from structlat.structures._subset_sums import draw, draw_subsets, size_sums
from structlat.tractable import Tractable

SHOWN = 8  # budgets of single rows in a repr


class BudgetBitVector(Tractable):
    """Bit-vectors with at most, or exactly, ``budget`` ones: scores [*, n]; z [n] of 0. and 1., its own vertex.

    Parameters
    ----------
    n : int
        How many bits, at least 1.
    budget : int, or integer Tensor that broadcasts to [*batch]
        From 0 to n. A tensor gives each row its own; ``enumerate``, ``cardinality`` and ``contains`` are then about the
        union over the rows, and ``argmax`` and the other oracles on a flat batch read the budgets from an extra score
        [n + 1] a row, which the space brings itself: 0 for a number of ones that is allowed, -inf for others.
    exact : bool
        Exactly ``budget`` ones (k-subsets) instead of at most.
    symmetric : bool
        Regularise being off like being on; see :class:`BitVector`.
    """

    def __init__(self, n: int, budget: int | Tensor, exact: bool = False, symmetric: bool = True) -> None:
        self.n = check_count("n", n)
        self.exact = bool(exact)
        self.antichain = self.exact
        self.shape = torch.Size([self.n])
        self.symmetric = bool(symmetric)
        self.budget: int | Tensor
        if isinstance(budget, Tensor) and budget.ndim:
            self.budget = _checked(budget, self.n)
            self.most = int(self.budget.max()) if budget.numel() else 0
            count, most = torch.arange(self.n + 1, device=budget.device), self.budget.unsqueeze(-1)
            allowed = count == most if self.exact else count <= most
            self.extra_shapes = (torch.Size([self.n + 1]),)
            self.own_extra = (torch.where(allowed, 0.0, -torch.inf).to(torch.float64),)
        else:
            self.budget = self.most = check_count("budget", budget, 0)
            if self.most > self.n:
                raise ArgumentError(f"budget: got {budget}; expected at most n = {n}")

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The ``budget`` best bits; of them only those with a positive score unless ``exact``."""
        return to_torch(oracle.argmax(to_numpy(scores), self._budgets(extra), self.exact), scores, scores.dtype)

    def compiled(self) -> Compiled:
        """The oracle as C functions."""
        return oracle.compiled(self.n, self.budget if isinstance(self.budget, int) else None, self.exact)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best subsets, by a heap over sorted scores."""
        z, valid = oracle.topk(to_numpy(scores), k, self._budgets(extra), self.exact)
        return to_torch(z, scores, scores.dtype), to_torch(valid, scores)

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """Sum of the scores of what is on; -inf where the row's own budget does not allow so much."""
        total = super().score(z, scores)
        if isinstance(self.budget, int):
            return total
        return total + pick((extra or self.own_extra)[0], 0, (z == 1).sum(-1))

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every subset, [|Z|, n]; with a budget a row, every subset of some row."""
        refuse_past(limit, self.cardinality(), repr(self))
        return torch.from_numpy(oracle.enumerate(self.n, self._every_budget(), self.exact)).to(torch.float64)

    def cardinality(self) -> int:
        """A binomial coefficient, or a sum of them: with a budget a row, of the union over the rows."""
        return oracle.cardinality(self.n, self._every_budget(), self.exact)

    def contains(self, z: Tensor) -> Tensor:
        """Whether z is a 0/1 vector within the budget, that of some row if each has its own."""
        check_event(self, z)
        ones = (z == 1).sum(-1)
        if not self.exact:
            return is_binary(z) & (ones <= self.most)
        allowed = torch.as_tensor(self.budget, device=z.device)
        return is_binary(z) & torch.isin(ones, allowed)

    def closed_form(self, scores: Tensor, *extra: Tensor) -> ClosedForm:
        """Scores less a threshold, clipped, decomposed into n + 1 subsets at most."""
        if isinstance(self.budget, int):
            return Comb(scores, self.budget, self.exact)
        return Comb(scores, _largest_allowed((extra or self.own_extra)[0]).unsqueeze(-1), self.exact)

    def mask(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Scores under which a padded batch gives what each example gives alone: bits past the length are off.

        ``lengths``, an integer tensor that broadcasts to [*batch], from 0 to n. An exact budget above a row's length
        leaves nothing feasible there.
        """
        return torch.where(past_length(self, scores, lengths), -torch.inf, scores)

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        return logsumexp(self._sizes(size_sums(scores, self.most)[-1], extra), -1)

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        levels = size_sums(scores, self.most)
        sizes = self._sizes(levels[-1], extra)
        size = draw(sizes.expand(count, *sizes.shape), generator)
        return draw_subsets(levels, size, self.n, generator).to(scores.dtype)

    def _sizes(self, sums: Tensor, extra: tuple[Tensor, ...]) -> Tensor:
        """The logs [B, sizes] of the sums over the subsets of each size that is allowed, for ``sums`` [B, 1, sizes]."""
        sums = sums.squeeze(1)
        if not isinstance(self.budget, int):
            return sums + (extra or self.own_extra)[0][..., : sums.shape[-1]]
        if not self.exact:
            return sums
        return torch.where(torch.arange(self.budget + 1, device=sums.device) == self.budget, sums, -torch.inf)

    def _budgets(self, extra: tuple[Tensor, ...]) -> int | npt.NDArray[Any]:
        if isinstance(self.budget, int):
            return self.budget
        return _largest_allowed((extra or self.own_extra)[0]).cpu().numpy()

    def _every_budget(self) -> int | npt.NDArray[Any]:
        return self.budget if isinstance(self.budget, int) else self.budget.unique().cpu().numpy()

    def __repr__(self) -> str:
        budget: object = self.budget
        if isinstance(self.budget, Tensor):
            few = self.budget.numel() <= SHOWN
            budget = f"budget={self.budget.tolist() if few else f'of shape {tuple(self.budget.shape)}'}"
        return f"BudgetBitVector({self.n}, {budget}, exact={self.exact}, symmetric={self.symmetric})"


def _checked(budget: Tensor, n: int) -> Tensor:
    if budget.is_floating_point() or budget.is_complex() or budget.dtype == torch.bool:
        raise ArgumentError(f"budget: got dtype {budget.dtype}; expected a number, or a tensor of an integer dtype")
    bad = (budget < 0) | (budget > n)
    if bool(bad.any()):
        raise ArgumentError(f"budget: outside 0..{n} in {rows_text(bad)}")
    return budget.to(torch.int64, copy=True)


def _largest_allowed(extra: Tensor) -> Tensor:
    """The budgets [B] that the extra scores [B, n + 1] of the numbers of ones stand for."""
    count = torch.arange(extra.shape[-1], device=extra.device)
    return torch.where(torch.isneginf(extra), -1, count).amax(-1)
