"""BipartiteMatching: which column each row is matched with."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles import matching
from structlat.errors import ArgumentError, check_count, rows_text
from structlat.problem import make_problem
from structlat.structure import ENUMERATION_LIMIT, Structure
from structlat.structures._host import check_event, refuse_past, to_numpy, to_torch
from structlat.structures._lengths import checked_lengths


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
    intractable = "its log-partition is a permanent, #P-hard to compute (Valiant 1979)"

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

    def mask(self, scores: Tensor, rows: Tensor | None = None, cols: Tensor | None = None) -> Tensor:
        """Scores under which a padded batch gives what each example gives alone.

        Padded rows and columns are matched with nothing if the space is partial. Otherwise row ``rows + i`` is matched
        with column ``cols + i`` with probability 1, at score 0, for as long as there are both. The longer side of an
        example has then to be the longer side of its padding, too.

        Parameters
        ----------
        scores : Tensor [*batch, rows, cols]
        rows, cols : integer Tensors that broadcast to [*batch], from 0 to ``rows`` and ``cols``
            How large each example is. Default: not padded.

        Raises
        ------
        ArgumentError
            Wrong lengths, or, naming the rows, padding under which fewer real pairs would be matched.
        """
        batch_shape = make_problem(self, scores, ()).batch_shape
        r = checked_lengths("rows", rows, self.rows, batch_shape, scores.device)
        c = checked_lengths("cols", cols, self.cols, batch_shape, scores.device)
        more, spare = r - c, (self.rows - r) - (self.cols - c)
        bad = more * spare < 0
        if not self.partial and bool(bad.any()):
            raise ArgumentError(
                f"rows, cols: in {rows_text(bad)} the longer side of the example gets less padding than the "
                f"shorter one, so that a full matching of {self.rows} x {self.cols} leaves real pairs out; expected a "
                "space with more room on the longer side, or one with partial=True"
            )
        at_row = torch.arange(self.rows, device=scores.device) - r.unsqueeze(-1)
        at_col = torch.arange(self.cols, device=scores.device) - c.unsqueeze(-1)
        at_row, at_col = at_row.unsqueeze(-1), at_col.unsqueeze(-2)
        padding = torch.where((at_row == at_col) & (not self.partial), 0.0, -torch.inf).to(scores.dtype)
        return torch.where((at_row < 0) & (at_col < 0), scores, padding)

    def __repr__(self) -> str:
        return f"BipartiteMatching({self.rows}, {self.cols}, partial={self.partial})"
