"""SemiMarkov: a sequence cut into labelled segments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from structlat.errors import check_count
from structlat.problem import make_problem
from structlat.structures._lengths import checked_lengths
from structlat.structures.dynamic_program import DynamicProgram


class SemiMarkov(DynamicProgram):
    """Segmentations with labels (Sarawagi and Cohen 2004): scores [*, T, D, L], extra [*, T, L, L]; z [T, D, L].

    ``scores[..., t, d, l]`` scores a segment that starts at position t, is d + 1 long, and has label l; z is 1 there.
    ``extra[..., t, i, j]`` scores a segment of label j that starts at t after one of label i; that at t = 0 is not
    used. [labels, labels] is shared by all rows and positions. Segments tile the sequence.

    Parameters
    ----------
    length : int
        T, at least 1.
    labels : int
        L, at least 1.
    max_length : int
        D, the longest segment, at least 1.
    """

    antichain = True

    def __init__(self, length: int, labels: int, max_length: int) -> None:
        self.length = check_count("length", length)
        self.labels = check_count("labels", labels)
        self.max_length = check_count("max_length", max_length)
        self.shape = torch.Size([self.length, self.max_length, self.labels])
        self.extra_shapes = (torch.Size([self.length, self.labels, self.labels]),)

    def hyperedges(self) -> Iterable[tuple[Any, ...]]:
        """A node for a segment's end with its label, and one for its start with the label to come."""
        labels = range(self.labels)
        for t in range(self.length + 1):
            for j in labels if t else ():
                for d in range(min(t, self.max_length)):
                    start = t - d - 1
                    yield ("end", t, j), [("start", start, j)], [(start, d, j)]
            for j in labels if t < self.length else ():
                if t == 0:
                    yield ("start", t, j), [], []
                for i in labels if t else ():
                    yield ("start", t, j), [("end", t, i)], [], [(t, i, j)]
        for j in labels:
            yield "all", [("end", self.length, j)], []

    compiled = DynamicProgram.compiled  # what it says is what ``score`` says

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """Scores of the segments, and of the label before each of them."""
        total = torch.where(z > 0, scores, 0).flatten(start_dim=-3).sum(-1)
        begins = z.sum(-2)  # [..., T, L]
        # a segment ends at t where one of length d + 1 starts at t - d - 1
        ends = torch.stack([self._ends_before(z, t) for t in range(self.length)], -2)
        used = (ends.unsqueeze(-1) * begins.unsqueeze(-2)) > 0
        return total + torch.where(used, extra[0], 0).flatten(start_dim=-3).sum(-1)

    def _ends_before(self, z: Tensor, t: int) -> Tensor:
        """The label of the segment whose last position is t - 1, one-hot [..., L]; zero at t = 0."""
        total = torch.zeros_like(z[..., 0, 0, :])
        for d in range(min(t, self.max_length)):
            total = total + z[..., t - d - 1, d, :]
        return total

    def mask(self, scores: Tensor, transition: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Scores under which a padded batch gives what each example gives alone.

        From ``lengths`` on, segments are one position long and have label 0, at score 0.

        Parameters
        ----------
        scores : Tensor [*batch, length, max_length, labels]
        transition : Tensor that broadcasts to [*batch, length, labels, labels]
        lengths : integer Tensor that broadcasts to [*batch], from 0 to ``length``
        """
        batch_shape = make_problem(self, scores, (transition,)).batch_shape
        n = checked_lengths("lengths", lengths, self.length, batch_shape, scores.device).unsqueeze(-1)
        start = torch.arange(self.length, device=scores.device)
        end = start.unsqueeze(-1) + torch.arange(1, self.max_length + 1, device=scores.device)
        crosses = (start.unsqueeze(-1) < n.unsqueeze(-1)) & (end > n.unsqueeze(-1))  # [*batch, T, D]
        filler = torch.full(self.shape[1:], -torch.inf, dtype=scores.dtype, device=scores.device)
        filler[0, 0] = 0
        masked = torch.where(crosses.unsqueeze(-1), -torch.inf, scores)
        padding = start >= n
        return (
            torch.where(padding[..., None, None], filler, masked),
            torch.where(padding[..., None, None], 0, transition),
        )

    def __repr__(self) -> str:
        return f"SemiMarkov({self.length}, {self.labels}, {self.max_length})"
