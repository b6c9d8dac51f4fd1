"""Permutation: the order of n things."""

from __future__ import annotations

from torch import Tensor

from structlat.errors import check_count
from structlat.problem import make_problem
from structlat.structures._lengths import checked_lengths
from structlat.structures.matching import BipartiteMatching


class Permutation(BipartiteMatching):
    """Permutations of n: scores [*, n, n], of row i in place j; z [n] int64, the place (column) of each row.

    The square :class:`BipartiteMatching` under the field's name: SparseMAP is the projection onto doubly stochastic
    matrices.

    Parameters
    ----------
    n : int
        At least 1.
    """

    def __init__(self, n: int) -> None:
        self.n = check_count("n", n)
        super().__init__(self.n, self.n)

    def mask(self, scores: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]  # a length for both sides
        """Scores under which a padded batch gives what each example gives alone.

        What lies past the length stays where it is, with probability 1, at score 0.

        Parameters
        ----------
        scores : Tensor [*batch, n, n]
        lengths : integer Tensor that broadcasts to [*batch], from 0 to n

        Returns
        -------
        Tensor [*batch, n, n]
        """
        batch_shape = make_problem(self, scores, ()).batch_shape
        lengths = checked_lengths("lengths", lengths, self.n, batch_shape, scores.device)
        return super().mask(scores, lengths, lengths)

    def __repr__(self) -> str:
        return f"Permutation({self.n})"
