"""BipartiteMatching: which column each row is matched with."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles import matching
from structlat.errors import check_count
from structlat.structure import ENUMERATION_LIMIT, Structure
from structlat.structures._host import check_event, refuse_past, to_numpy, to_torch


class BipartiteMatching(Structure):
    """Matchings of rows with columns: scores [*, rows, cols]; z [rows] int64, the column of each row, -1 for none.

    Parameters
    ----------
    rows, cols : int
        At least 1.
    partial : bool
        Any matching, the empty one included. Otherwise min(rows, cols) pairs are matched.
    """

    event_dtype = torch.int64
    _one_hot = True

    def __init__(self, rows: int, cols: int, partial: bool = False) -> None:
        self.rows = check_count("rows", rows)
        self.cols = check_count("cols", cols)
        self.partial = bool(partial)
        self.antichain = not self.partial
        self.shape = torch.Size([self.rows, self.cols])
        self.event_shape = torch.Size([self.rows])

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The assignment of highest score."""
        return to_torch(matching.argmax(to_numpy(scores), self.partial), scores)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best assignments, by Murty's ranking."""
        z, valid = matching.topk(to_numpy(scores), k, self.partial)
        return to_torch(z, scores), to_torch(valid, scores)

    def vertex(self, z: Tensor) -> Tensor:
        """0/1 matrices [..., rows, cols], in torch's default dtype; the line of an unmatched row is zero."""
        return (z.unsqueeze(-1) == torch.arange(self.cols, device=z.device)).to(torch.get_default_dtype())

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """Sum of the scores of the pairs; -inf where fewer are matched than the space demands."""
        total = super().score(z, scores)
        if self.partial:
            return total
        return torch.where((z >= 0).sum(-1) == min(self.rows, self.cols), total, -torch.inf)

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every matching, [|Z|, rows]."""
        refuse_past(limit, self.cardinality(), repr(self))
        return torch.from_numpy(matching.enumerate(self.rows, self.cols, self.partial))

    def cardinality(self) -> int:
        """How many matchings there are: falling factorials."""
        return matching.cardinality(self.rows, self.cols, self.partial)

    def contains(self, z: Tensor) -> Tensor:
        """Whether z gives each row a column of its own, and matches as many as the space demands."""
        check_event(self, z)
        a = self.vertex(z)
        unmatched = (z == -1).sum(-1)
        known = ((a.sum(-1) == 1) | (z == -1)).all(-1)
        apart = (a.sum(-2) <= 1).all(-1)
        enough = True if self.partial else unmatched == max(self.rows - self.cols, 0)
        return known & apart & enough

    def __repr__(self) -> str:
        return f"BipartiteMatching({self.rows}, {self.cols}, partial={self.partial})"
