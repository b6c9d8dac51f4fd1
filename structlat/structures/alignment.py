"""Alignment: a monotone path through a grid, from corner to corner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from structlat.errors import ArgumentError, check_count, rows_text
from structlat.problem import make_problem
from structlat.structures._lengths import checked_lengths
from structlat.structures.dynamic_program import DynamicProgram

DIAGONAL, DOWN, RIGHT = range(3)
MOVES = ((1, 1), (1, 0), (0, 1))


class Alignment(DynamicProgram):
    """Monotone alignments of two sequences: scores [*, rows, cols, 3]; z the same shape.

    A path from cell (0, 0) to cell (rows - 1, cols - 1). ``scores[..., i, j, s]`` scores entering cell (i, j) by the
    step s: 0 diagonally, from (i - 1, j - 1); 1 down, from (i - 1, j); 2 to the right, from (i, j - 1). z is 1 at the
    steps of the path; cell (0, 0), where it begins, is not entered. There are as many as Delannoy numbers say.

    Parameters
    ----------
    rows, cols : int
        At least 1.
    many_to_one : bool
        Each column belongs to just one row, as frames do to the labels of a transcript in CTC: no steps down. It takes
        at least as many columns as rows.
    """

    antichain = True

    def __init__(self, rows: int, cols: int, many_to_one: bool = False) -> None:
        self.rows = check_count("rows", rows)
        self.cols = check_count("cols", cols)
        self.many_to_one = bool(many_to_one)
        if self.many_to_one and self.cols < self.rows:
            raise ArgumentError(f"cols: got {cols}; expected at least rows = {rows} where many columns go to one row")
        self.shape = torch.Size([self.rows, self.cols, len(MOVES)])

    def hyperedges(self) -> Iterable[tuple[Any, ...]]:
        """A node a cell."""
        for i in range(self.rows):
            for j in range(self.cols):
                if i == j == 0:
                    yield (i, j), [], []
                for step, (down, right) in enumerate(MOVES):
                    before = (i - down, j - right)
                    # with no steps down, nothing below the diagonal is reached
                    if min(before) >= 0 and not (self.many_to_one and (step == DOWN or i > j or before[0] > before[1])):
                        yield (i, j), [before], [(i, j, step)]

    def mask(self, scores: Tensor, rows: Tensor | None = None, cols: Tensor | None = None) -> Tensor:
        """Scores under which a padded batch gives what each example gives alone.

        An example's path ends in its own last cell; from there one fixed path goes on to the corner, at score 0: down
        at first (with ``many_to_one``: diagonally), then to the right.

        Parameters
        ----------
        scores : Tensor [*batch, rows, cols, 3]
        rows, cols : integer Tensors that broadcast to [*batch], at least 1, optional
            The size of each example. Default: all of them.

        Raises
        ------
        ArgumentError
            Sizes out of range; with ``many_to_one``, an example that has fewer padded columns than padded rows, or
            fewer columns than rows.
        """
        batch_shape = make_problem(self, scores, ()).batch_shape
        n = checked_lengths("rows", rows, self.rows, batch_shape, scores.device, least=1)
        m = checked_lengths("cols", cols, self.cols, batch_shape, scores.device, least=1)
        if self.many_to_one:
            bad = (m < n) | (self.cols - m < self.rows - n)
            if bool(bad.any()):
                raise ArgumentError(
                    f"rows, cols: in {rows_text(bad)} there are fewer columns than rows, in the example or in its "
                    "padding; expected at least as many (pad with more columns)"
                )
        i = torch.arange(self.rows, device=scores.device).unsqueeze(-1)
        j = torch.arange(self.cols, device=scores.device)
        n, m = n[..., None, None], m[..., None, None]
        beyond = (i >= n) | (j >= m)
        if self.many_to_one:
            first = (i >= n) & (j == m - 1 + (i - n + 1))
            corner = m - 1 + (self.rows - n)
            step = DIAGONAL
        else:
            first = (i >= n) & (j == m - 1)
            corner = m - 1
            step = DOWN
        last = (i == self.rows - 1) & (j > corner)
        kind = torch.arange(len(MOVES), device=scores.device)
        path = (first.unsqueeze(-1) & (kind == step)) | (last.unsqueeze(-1) & (kind == RIGHT))
        return torch.where(beyond.unsqueeze(-1), torch.where(path, 0.0, -torch.inf).to(scores.dtype), scores)

    def __repr__(self) -> str:
        return f"Alignment({self.rows}, {self.cols}{', many_to_one=True' if self.many_to_one else ''})"
