"""BinaryTree: binary bracketings of a sequence, with a label for each span."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from structlat.errors import check_count
from structlat.problem import make_problem
from structlat.structures._lengths import checked_lengths
from structlat.structures.dynamic_program import DynamicProgram


class BinaryTree(DynamicProgram):
    """Binary trees over a sequence of leaves (CKY): scores [*, leaves, leaves, labels]; z the same shape.

    ``scores[..., i, j, l]`` scores the span from leaf i to leaf j, both in it, with label l; z is 1 at the spans of the
    tree, its leaves (i = j) and its root among them. Spans with i > j do not exist. There are Catalan(leaves - 1) trees
    times labels^(2 leaves - 1).

    Parameters
    ----------
    leaves, labels : int
        At least 1.
    """

    antichain = True

    def __init__(self, leaves: int, labels: int = 1) -> None:
        self.leaves = check_count("leaves", leaves)
        self.labels = check_count("labels", labels)
        self.shape = torch.Size([self.leaves, self.leaves, self.labels])

    def hyperedges(self) -> Iterable[tuple[Any, ...]]:
        """A node for a span with its label, and one for what is below the label."""
        for width in range(self.leaves):
            for i in range(self.leaves - width):
                j = i + width
                for k in range(i, j):
                    yield ("below", i, j), [(i, k), (k + 1, j)], []
                for label in range(self.labels):
                    yield (i, j), [("below", i, j)] if width else [], [(i, j, label)]

    def mask(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Scores under which a padded batch gives what each example gives alone.

        The tree of an example's own leaves is joined with the padding leaf by leaf, from the left; the spans that this
        takes have label 0, at score 0.

        Parameters
        ----------
        scores : Tensor [*batch, leaves, leaves, labels]
        lengths : integer Tensor that broadcasts to [*batch], from 0 to ``leaves``
        """
        batch_shape = make_problem(self, scores, ()).batch_shape
        n = checked_lengths("lengths", lengths, self.leaves, batch_shape, scores.device)[..., None, None]
        i = torch.arange(self.leaves, device=scores.device).unsqueeze(-1)
        j = torch.arange(self.leaves, device=scores.device)
        padding = (j >= n) & (i <= j)
        spine = padding & ((i == 0) | (i == j))
        first = torch.arange(self.labels, device=scores.device) == 0
        filler = torch.where(spine.unsqueeze(-1) & first, 0.0, -torch.inf).to(scores.dtype)
        return torch.where(padding.unsqueeze(-1), filler, scores)

    def __repr__(self) -> str:
        return f"BinaryTree({self.leaves}, labels={self.labels})"
