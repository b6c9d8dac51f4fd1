"""Categorical: one of n."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles import categorical
from oracles.compiled import Compiled
from structlat.closed_form import ClosedForm
from structlat.errors import check_count
from structlat.simplex import sparsemax
from structlat.structure import ENUMERATION_LIMIT
from structlat.structures._host import check_event, is_label, pick, refuse_past, to_numpy, to_torch
from structlat.structures._inside import logsumexp
from structlat.structures._lengths import past_length
from structlat.structures._subset_sums import draw
from structlat.tractable import Tractable


class Categorical(Tractable):
    """One of ``n``: scores [*, n]; z is a label, [] int64, as in torch's Categorical. SparseMAP on it is sparsemax.

    Parameters
    ----------
    n : int
        How many there are, at least 1.
    """

    event_dtype = torch.int64
    _one_hot = True
    event_shape = torch.Size()
    antichain = True

    def __init__(self, n: int) -> None:
        self.n = check_count("n", n)
        self.shape = torch.Size([self.n])

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The best label of each row; the lowest where several are best."""
        return to_torch(categorical.argmax(to_numpy(scores)), scores)

    def compiled(self) -> Compiled:
        """The oracle as C functions."""
        return categorical.compiled(self.n)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best labels, by one partial sort."""
        z, valid = categorical.topk(to_numpy(scores), k)
        return to_torch(z, scores), to_torch(valid, scores)

    def vertex(self, z: Tensor) -> Tensor:
        """One-hot vectors [..., n], in torch's default dtype."""
        return (z.unsqueeze(-1) == torch.arange(self.n, device=z.device)).to(torch.get_default_dtype())

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """The scores of the labels."""
        return pick(scores, 0, z)

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """0, 1, ..., n - 1."""
        refuse_past(limit, self.n, repr(self))
        return torch.from_numpy(categorical.enumerate(self.n))

    def cardinality(self) -> int:
        """How many labels there are."""
        return self.n

    def contains(self, z: Tensor) -> Tensor:
        """Whether the labels are whole numbers from 0 to n - 1."""
        check_event(self, z)
        return is_label(z, self.n)

    def closed_form(self, scores: Tensor, *extra: Tensor) -> ClosedForm:
        """Sparsemax: here vertices are unit vectors, so that |mu|^2 = |p|^2."""
        return _Sparsemax(scores)

    def mask(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Scores under which a padded batch gives what each example gives alone: labels past the length are forbidden.

        ``lengths`` is an integer tensor that broadcasts to [*batch], from 1 to n.
        """
        return torch.where(past_length(self, scores, lengths, least=1), -torch.inf, scores)

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        total = logsumexp(scores, -1)
        return torch.where(torch.isneginf(total), -torch.inf, total)  # without a slope, also where there is one label

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        return draw(scores.expand(count, *scores.shape), generator)

    def __repr__(self) -> str:
        return f"Categorical({self.n})"


class _Sparsemax(ClosedForm):
    """Every label is a candidate, and p is its own mean."""

    def infeasible(self) -> Tensor:
        return torch.isneginf(self.scores.detach().amax(-1))

    def mean(self) -> Tensor:
        return sparsemax(self.scores)

    def weights(self) -> Tensor:
        return sparsemax(self.scores)

    def structures(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return index
