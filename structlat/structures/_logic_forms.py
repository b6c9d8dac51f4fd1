"""SparseMAP in closed form where at least one bit is on, and for two bits that interact."""

from __future__ import annotations

import torch
from torch import Tensor

from structlat.closed_form import ClosedForm
from structlat.structures._bits_forms import Comb


class OneIsOn(ClosedForm):
    """At most n - 1 bits of 1 - z are on: the program of a budget at the scores 1 - s, turned over."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__(scores)
        forbidden = torch.isneginf(scores.detach())
        # below all others by more than bits may differ, and below 0: such a bit stays off as long as another can be on
        low = torch.where(forbidden, 0, scores.detach()).amin(-1, keepdim=True) - 2
        self._off = Comb(1 - torch.where(forbidden, low, scores), scores.shape[-1] - 1, exact=False)
        self._none = forbidden.all(-1)

    def infeasible(self) -> Tensor:
        return self._none

    def mean(self) -> Tensor:
        return 1 - self._off.mean()

    def weights(self) -> Tensor:
        return self._off.weights()

    def structures(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return 1 - self._off.structures(index, dtype)


class Pulled(ClosedForm):
    """Two bits and w, what both on add (Martins et al. 2015, *AD3*, section 5).

    With w >= 0 the bit of higher score has the marginal clip(s, 0, 1) and the other one clip(s + w, 0, 1), if s is
    still above s + w; else both have that of the mean of the two. Both are on with the smaller marginal. A w below 0 is
    one above 0 for the first bit and 1 less the second.
    """

    def __init__(self, scores: Tensor, both: Tensor) -> None:
        super().__init__(scores)
        forbidden, apart = torch.isneginf(scores.detach()), torch.isneginf(both.detach())
        s, w = torch.where(forbidden, 0, scores), torch.where(apart, 0, both).expand(len(scores))
        # numbers so low that the answer is that of -inf, of which sums would be NaN
        lowest = -(s.detach().abs().sum(-1) + w.detach().abs() + 2)
        s, w = torch.where(forbidden, lowest.unsqueeze(-1), s), torch.where(apart, 2 * lowest, w)
        self._turned = w.detach() < 0
        one, other = s.unbind(-1)
        with_one, with_other = one + w, torch.where(self._turned, 1 - other - w, other + w)
        other = torch.where(self._turned, 1 - other, other)
        one, with_one = torch.where(self._turned, with_one, one), torch.where(self._turned, one, with_one)
        first, second = one > with_other, other > with_one
        mean = ((with_one + other) / 2).clamp(0, 1)
        self._one = torch.where(first, one.clamp(0, 1), torch.where(second, with_one.clamp(0, 1), mean))
        self._other = torch.where(first, with_other.clamp(0, 1), torch.where(second, other.clamp(0, 1), mean))

    def mean(self) -> Tensor:
        return torch.stack([self._one, torch.where(self._turned, 1 - self._other, self._other)], -1)

    def weights(self) -> Tensor:
        neither, only_other = 1 - torch.maximum(self._one, self._other), (self._other - self._one).relu()
        only_one, both = (self._one - self._other).relu(), torch.minimum(self._one, self._other)
        straight = torch.stack([neither, only_other, only_one, both], -1)
        turned = torch.stack([only_other, neither, both, only_one], -1)
        return torch.where(self._turned.unsqueeze(-1), turned, straight)

    def structures(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return four(self.scores)[index].to(dtype)


def four(like: Tensor) -> Tensor:
    """The vectors of two bits, [4, 2], in the order of their numbers."""
    return torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=like.dtype, device=like.device)
