"""BitVector: n independent bits."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles import bits
from oracles.compiled import Compiled
from structlat.closed_form import ClosedForm
from structlat.errors import check_choice, check_count
from structlat.structure import ENUMERATION_LIMIT
from structlat.structures._bits_forms import Nested
from structlat.structures._host import check_event, is_binary, refuse_past, to_numpy, to_torch
from structlat.structures._lengths import past_length
from structlat.tractable import Tractable

DECOMPOSITIONS = ("levels", "flips")


class BitVector(Tractable):
    """All 2^n vectors of n bits: scores [*, n]; z [n] of 0. and 1., its own vertex.

    Parameters
    ----------
    n : int
        How many bits, at least 1.
    symmetric : bool
        Regularise being off like being on, as the paper does: the marginals are clip((x / gamma + 1) / 2, 0, 1),
        centred at x = 0. Otherwise clip(x / gamma, 0, 1): zero scores leave every bit off.
    decomposition : {"levels", "flips"}
        Which of the optimal p SparseMAP gives in closed form; the marginals are the same. "levels", z(u) = [mu > u] for
        u uniform in [0, 1], moves continuously with the scores. "flips", the most uncertain bits flipped one after the
        other, has more of its probability on the MAP structure, and jumps where that changes.
    """

    def __init__(self, n: int, symmetric: bool = True, decomposition: str = "levels") -> None:
        check_choice("decomposition", decomposition, DECOMPOSITIONS)
        self.n = check_count("n", n)
        self.decomposition = decomposition
        self.shape = torch.Size([self.n])
        self.symmetric = bool(symmetric)

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """A bit is on where its score is positive."""
        return (scores > 0).to(scores.dtype)  # on any device: no way to the host and back

    def compiled(self) -> Compiled:
        """The oracle as C functions."""
        return bits.compiled(self.n)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best, by a heap over the k smallest |score|: the others keep their sign's value."""
        z, valid = bits.topk(to_numpy(scores), k)
        return to_torch(z, scores, scores.dtype), to_torch(valid, scores)

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every bit-vector, [2^n, n], counting in binary."""
        refuse_past(limit, self.cardinality(), repr(self))
        return torch.from_numpy(bits.enumerate(self.n)).to(torch.float64)

    def cardinality(self) -> int:
        """2^n."""
        return bits.cardinality(self.n)

    def contains(self, z: Tensor) -> Tensor:
        """Whether z is a 0/1 vector."""
        check_event(self, z)
        return is_binary(z)

    def closed_form(self, scores: Tensor, *extra: Tensor) -> ClosedForm:
        """Clipped scores, decomposed into n + 1 bit-vectors at most."""
        return Nested(scores, self.decomposition == "flips")

    def mask(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Scores under which a padded batch gives what each example gives alone: bits past the length are off.

        ``lengths`` is an integer tensor that broadcasts to [*batch], from 0 to n.
        """
        return torch.where(past_length(self, scores, lengths), -torch.inf, scores)

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        # the softplus that is exact everywhere, and whose derivatives are 0 at -inf
        return -torch.nn.functional.logsigmoid(-scores).sum(-1)

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        at = torch.rand(count, *scores.shape, dtype=scores.dtype, device=scores.device, generator=generator)
        return (at < scores.sigmoid()).to(scores.dtype)

    def __repr__(self) -> str:
        flips = "" if self.decomposition == "levels" else f", decomposition={self.decomposition!r}"
        return f"BitVector({self.n}, symmetric={self.symmetric}{flips})"
