"""Logic over bits, for graphs of factors: exactly one, at most one, at least one, and two bits that interact."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles import bits
from structlat.closed_form import ClosedForm
from structlat.errors import check_count
from structlat.structure import ENUMERATION_LIMIT
from structlat.structures._host import check_event, is_binary, refuse_past, to_numpy, to_torch
from structlat.structures._logic_forms import OneIsOn, Pulled, four
from structlat.structures.budget import BudgetBitVector
from structlat.tractable import Tractable


class Xor(BudgetBitVector, Tractable):
    """Exactly one of ``n`` bits is on: scores [*, n]; z [n] of 0. and 1., its own vertex. SparseMAP is sparsemax.

    Parameters
    ----------
    n : int
        How many bits, at least 1.
    """

    def __init__(self, n: int) -> None:
        super().__init__(n, 1, exact=True, symmetric=False)

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        return _log_sum_exp(scores)

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        return _one_hot(_draw(scores, count, generator), self.n, scores)

    def __repr__(self) -> str:
        return f"Xor({self.n})"


class AtMostOne(BudgetBitVector, Tractable):
    """At most one of ``n`` bits is on: scores [*, n]; z [n] of 0. and 1., its own vertex.

    Parameters
    ----------
    n : int
        How many bits, at least 1.
    """

    def __init__(self, n: int) -> None:
        super().__init__(n, 1, exact=False, symmetric=False)

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        return _log_sum_exp(torch.cat([scores, torch.zeros_like(scores[:, :1])], -1))

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        none = torch.zeros_like(scores[:, :1])
        return _one_hot(_draw(torch.cat([scores, none], -1), count, generator), self.n, scores)

    def __repr__(self) -> str:
        return f"AtMostOne({self.n})"


class Or(Tractable):
    """At least one of ``n`` bits is on: scores [*, n]; z [n] of 0. and 1., its own vertex.

    Parameters
    ----------
    n : int
        How many bits, at least 1.
    """

    def __init__(self, n: int) -> None:
        self.n = check_count("n", n)
        self.shape = torch.Size([self.n])

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """What is above 0, and the best bit in any case."""
        best = torch.arange(self.n, device=scores.device) == scores.argmax(-1, keepdim=True)
        return ((scores > 0) | best).to(scores.dtype)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k + 1 best bit-vectors, less the one that has no bit on."""
        z, valid = bits.topk(to_numpy(scores), k + 1)
        every, there = to_torch(z, scores), to_torch(valid, scores)
        order = (~(there & every.any(-1))).sort(dim=-1, stable=True).indices[:, :k]
        there = (there & every.any(-1)).gather(1, order)
        order = torch.where(there, order, order[:, :1])
        return every.gather(1, order.unsqueeze(-1).expand(-1, -1, self.n)).to(scores.dtype), there

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every bit-vector but the first, [2^n - 1, n], counting in binary."""
        refuse_past(limit, self.cardinality(), repr(self))
        return torch.from_numpy(bits.enumerate(self.n)[1:]).to(torch.float64)

    def cardinality(self) -> int:
        """2^n - 1."""
        return bits.cardinality(self.n) - 1

    def contains(self, z: Tensor) -> Tensor:
        """Whether z is a 0/1 vector with a 1."""
        check_event(self, z)
        return is_binary(z) & (z == 1).any(-1)

    def closed_form(self, scores: Tensor, *extra: Tensor) -> ClosedForm | None:
        """At most n - 1 bits are off."""
        return OneIsOn(scores) if self.n > 1 else None

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        return _log_sum_exp(self._by_last(scores))

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        last = _draw(self._by_last(scores), count, generator).unsqueeze(-1)
        place = torch.arange(self.n, device=scores.device)
        drawn = torch.rand(count, *scores.shape, dtype=scores.dtype, device=scores.device, generator=generator)
        on = ((drawn < torch.sigmoid(scores)) & (place < last)) | (place == last)
        return on.to(scores.dtype)

    def _by_last(self, scores: Tensor) -> Tensor:
        """The log-partition of the structures by which of their bits is the last one on, [B, n]: those before it are
        free.
        """
        free = torch.logaddexp(scores, torch.zeros_like(scores))
        return scores + free.cumsum(-1) - free

    def __repr__(self) -> str:
        return f"Or({self.n})"


class Pair(Tractable):
    """Two bits that interact: scores [*, 2], extra [*, 1], what both on add; z [2] of 0. and 1., its own vertex.

    An extra score above 0 pulls the bits together, one below 0 apart. It is not regularised.
    """

    shape = torch.Size([2])
    extra_shapes = (torch.Size([1]),)

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The best of four."""
        return four(scores)[self._scores(scores, *extra).argmax(-1)]

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """Sum of the scores of the bits that are on, and of what both score together."""
        return super().score(z, scores) + torch.where((z > 0).all(-1), extra[0].squeeze(-1), 0)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """All four, sorted."""
        s, order = self._scores(scores, *extra).sort(dim=-1, descending=True, stable=True)
        at = torch.arange(k, device=scores.device)
        valid = (at < 4) & ~torch.isneginf(s)[:, at.clamp(max=3)]
        return four(scores)[torch.where(valid, order[:, at.clamp(max=3)], order[:, :1])], valid

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """None, the second, the first, both: [4, 2]."""
        refuse_past(limit, 4, repr(self))
        return four(torch.zeros((), dtype=torch.float64, device="cpu"))

    def cardinality(self) -> int:
        """Four."""
        return 4

    def contains(self, z: Tensor) -> Tensor:
        """Whether z is a 0/1 vector."""
        check_event(self, z)
        return is_binary(z)

    def closed_form(self, scores: Tensor, *extra: Tensor) -> ClosedForm:
        """Clipped scores, to which the extra score is added or not, or their mean where the bits are drawn together."""
        return Pulled(scores, extra[0].squeeze(-1))

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        return _log_sum_exp(self._scores(scores, *extra))

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        return four(scores)[_draw(self._scores(scores, *extra), count, generator)]

    @staticmethod
    def _scores(scores: Tensor, *extra: Tensor) -> Tensor:
        """Of all four, [B, 4]."""
        one, other = scores[:, 0], scores[:, 1]
        return torch.stack([torch.zeros_like(one), other, one, one + other + extra[0].squeeze(-1)], -1)

    def __repr__(self) -> str:
        return "Pair()"


def _log_sum_exp(scores: Tensor) -> Tensor:
    """Log sum exp of scores [B, M], [B]: -inf, with a gradient of 0, where all are."""
    highest = scores.detach().amax(-1, keepdim=True)
    total = (scores - torch.where(torch.isneginf(highest), 0, highest)).exp().sum(-1)
    none = total.detach() == 0
    return torch.where(none, -torch.inf, torch.where(none, 1, total).log() + highest.squeeze(-1))


def _draw(scores: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """``count`` draws [count, B] from softmax over scores [B, M]: the largest of scores with Gumbel noise."""
    u = torch.rand(count, *scores.shape, dtype=torch.float64, device=scores.device, generator=generator)
    return (scores - (-u.log()).log()).argmax(-1)


def _one_hot(index: Tensor, n: int, like: Tensor) -> Tensor:
    return (index.unsqueeze(-1) == torch.arange(n, device=index.device)).to(like.dtype)
