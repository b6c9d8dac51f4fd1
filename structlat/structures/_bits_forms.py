"""SparseMAP on bits in closed form: marginals, and the bit-vectors that a given mean is a mixture of.

Differentiable torch without a branch on values, on any device and under any transform. ``Nested`` serves independent
bits, ``Comb`` bits under a budget.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structlat.closed_form import ClosedForm


def _put_in_front(x: Tensor, value: int) -> Tensor:
    return torch.cat([torch.full_like(x[:, :1], value), x], -1)


def _put_behind(x: Tensor, value: int) -> Tensor:
    return torch.cat([x, torch.full_like(x[:, :1], value)], -1)


def _before(order: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where an entry comes before place ``index`` [B, K] in ``order`` [B, n], else 0: [B, K, n]."""
    places = torch.arange(order.shape[-1], device=order.device).expand(order.shape)
    rank = torch.zeros_like(order).scatter(-1, order, places)
    # a clipped difference is far faster than a comparison whose answer is converted
    return (index.to(dtype).unsqueeze(-1) - rank.to(dtype).unsqueeze(1)).clamp(0, 1)


class Nested(ClosedForm):
    """Independent bits: mu = clip(scores, 0, 1), as a mixture of n + 1 bit-vectors, each a bit away from the next.

    *Levels*, z(u) = [mu > u] for u uniform in [0, 1]: p is continuous in the scores. *Flips*: the MAP structure with
    its most uncertain bits flipped one after the other: p is concentrated there, and jumps where that changes.
    """

    def __init__(self, scores: Tensor, flips: bool) -> None:
        super().__init__(scores)
        self.flips = flips

    def mean(self) -> Tensor:
        """clip(scores, 0, 1)."""
        return self.scores.clamp(0, 1)

    def weights(self) -> Tensor:
        """Candidate j has the j largest of mu on (of the uncertainties flipped): p_j = u_(j) - u_(j + 1)."""
        u, _ = self._ordered_by()
        ordered = u.gather(-1, u.detach().sort(dim=-1, descending=True, stable=True).indices)
        return _put_in_front(ordered, 1) - _put_behind(ordered, 0)

    def structures(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """On, or flipped, is what ranks before ``index``."""
        u, start = self._ordered_by()
        z = _before(u.detach().sort(dim=-1, descending=True, stable=True).indices, index, dtype)
        return (z - start.to(dtype).unsqueeze(1)).abs() if self.flips else z

    def _ordered_by(self) -> tuple[Tensor, Tensor]:
        """What bits are ordered by, and the bit-vector that the mixture starts from, both [B, n]."""
        mu = self.mean()
        start = (mu.detach() > 0.5) & self.flips
        return torch.where(start, 1 - mu, mu), start


class Comb(ClosedForm):
    """Bits of which at most, or exactly, ``budget`` (int, or [B or 1, 1]) are on: mu = clip(scores - tau, 0, 1).

    p by systematic sampling, in index order: the intervals [C_i-1, C_i) of cumulated marginals lie on a line, and for u
    in [0, 1) the bits whose interval meets u + {0, 1, 2, ...} are on. The number of ones is right for every u only if
    nothing is rounded: marginals become whole multiples of a power of two.
    """

    def __init__(self, scores: Tensor, budget: int | Tensor, exact: bool) -> None:
        super().__init__(scores)
        self.budget = budget
        self.exact = exact
        self.unit_bits = min(52, 62 - scores.shape[-1].bit_length())
        self._mu: Tensor | None = None

    def infeasible(self) -> Tensor | None:
        """Fewer than ``budget`` bits may be on."""
        if not self.exact:
            return None
        return ((~torch.isneginf(self.scores.detach())).sum(-1, keepdim=True) < self.budget).squeeze(-1)

    def mean(self) -> Tensor:
        """clip(scores - tau, 0, 1), with tau from the sorted breakpoints of its sum."""
        if self._mu is None:
            self._mu = self._marginals()
        return self._mu

    def _marginals(self) -> Tensor:
        y, n = self.scores, self.scores.shape[-1]
        if isinstance(self.budget, Tensor):
            # from 1 to n - 1 for the solution, whose rows with 0 or n are then replaced
            k = self.budget.clamp(max=n - 1).clamp(min=1)
            largest = self.scores.detach().sort(-1, descending=True).values
            bound = self._at_budget(k.to(y.dtype), largest.gather(-1, (k - 1).expand(len(y), 1)))
            bound = torch.where((self.budget == 0) | (self.budget == n), (self.budget // n).to(y.dtype), bound)
        elif self.budget in (0, n):
            free = torch.zeros_like(y, dtype=torch.bool)
            bound = torch.where(free, y, self.budget // n)
        else:
            largest = self.scores.detach().kthvalue(n - self.budget + 1, keepdim=True).values
            bound = self._at_budget(self.budget, largest)
        return bound if self.exact else torch.where(self._binds(), bound, y.clamp(0, 1))

    def weights(self) -> Tensor:
        """The lengths of the n + 1 pieces of [0, 1), between sorted C_i mod 1, on which the same bits are on."""
        start, order, _ = self._teeth()
        one = 1 << self.unit_bits
        value = (_put_behind(start[:, 1:], one) - start).to(torch.float64) / one
        cumulated = _put_in_front(self.mean().cumsum(-1), 0).gather(-1, order)
        slope = _put_behind(cumulated[:, 1:], 0) - cumulated
        return value + (slope - slope.detach())

    def structures(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The bits that are on where piece ``index`` starts."""
        _, order, carried = self._teeth()
        passed = _before(order, index + 1, dtype)
        return passed[..., :-1] - passed[..., 1:] + carried.to(dtype).unsqueeze(1)

    def _binds(self) -> Tensor:
        """Rows in which bits alone would exceed the budget, [B, 1]; a budget of 0 binds whatever the scores."""
        return (self.scores.detach().clamp(0, 1).sum(-1, keepdim=True) > self.budget) | (self.budget == 0)

    def _at_budget(self, k: int | Tensor, reference: Tensor) -> Tensor:
        """clip(scores - tau, 0, 1) summing to k, which is neither 0 nor n; the k-th largest score is given [B, 1]."""
        y = self.scores - torch.where(torch.isneginf(reference), 0, reference)  # nothing cancels at large scales
        # from the reference, tau is in [-1, 0]: what is farther away counts as 0 or as 1
        w = y.detach().clamp(-1, 1)
        breaks, order = torch.cat([w, w - 1], -1).sort(-1, descending=True)
        # as tau falls, a bit starts to grow at w and is full at w - 1
        slope = torch.where(order < w.shape[-1], 1, -1).cumsum(-1)
        total = _put_in_front((slope[:, :-1] * (breaks[:, :-1] - breaks[:, 1:])).cumsum(-1), 0)
        # tau is where the sum comes to the budget; on a plateau, where it first does, but for rounding
        last = (total < k - 1e-15 * breaks.shape[-1]).sum(-1, keepdim=True) - 1
        above, below = breaks.gather(-1, last), breaks.gather(-1, last + 1)
        on = w - 1 >= above
        free = (w >= above) & (w - 1 <= below) & ~on & (w == y.detach())
        count = free.sum(-1, keepdim=True)
        tau = (torch.where(free, y, 0).sum(-1, keepdim=True) + on.sum(-1, keepdim=True) - k) / count.clamp(min=1)
        mu = torch.where(free, y - tau, on.to(y.dtype))
        return mu + (mu.clamp(0, 1) - mu).detach()  # rounding must not cost a bit its derivative

    def _teeth(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where pieces start: C_i mod 1, sorted, in units of 2^-unit_bits, and which i, [B, n + 1] both.

        And where C passes a whole number, [B, n].
        """
        one = 1 << self.unit_bits
        mass = (self.mean().detach() * one).round().to(torch.int64)
        excess = mass.sum(-1, keepdim=True) - self.budget * one
        binds = torch.ones_like(excess, dtype=torch.bool) if self.exact else self._binds() | (excess > 0)
        # rounding goes to the bit with the most room
        widest = torch.minimum(mass, one - mass).argmax(-1, keepdim=True)
        here = torch.arange(mass.shape[-1], device=mass.device) == widest
        cumulated = _put_in_front((mass - torch.where(here & binds, excess, 0)).cumsum(-1), 0)
        start, order = (cumulated & (one - 1)).sort(dim=-1, stable=True)
        whole = cumulated >> self.unit_bits
        return start, order, whole[:, 1:] != whole[:, :-1]
