"""Knapsack: items whose costs stay within a capacity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from structlat.errors import ArgumentError, check_count
from structlat.problem import make_problem
from structlat.structures._lengths import checked_lengths
from structlat.structures.dynamic_program import DynamicProgram


class Knapsack(DynamicProgram):
    """Subsets of items whose costs sum to at most ``capacity``: scores [*, n]; z [n] of 0. and 1., its own vertex.

    The dynamic program over (items so far, cost so far): its oracles take time in proportion to n times the costs that
    can be reached, at most capacity + 1.

    Parameters
    ----------
    costs : sequence of int, or an integer Tensor [n]
        At least 0 each.
    capacity : int
        At least 0.
    """

    def __init__(self, costs: Sequence[int] | Tensor, capacity: int) -> None:
        values = costs.tolist() if isinstance(costs, Tensor) else list(costs)
        if not isinstance(values, list) or not values or any(isinstance(c, list) for c in values):
            raise ArgumentError(f"costs: got {costs!r}; expected at least one whole number, in one dimension")
        self.costs = tuple(check_count(f"costs[{i}]", c, 0) for i, c in enumerate(values))
        self.capacity = check_count("capacity", capacity, 0)
        self.shape = torch.Size([len(self.costs)])

    def hyperedges(self) -> Iterable[tuple[Any, ...]]:
        """A node for each cost that the first i items can come to."""
        reached = {0}
        yield (0, 0), [], []
        for i, cost in enumerate(self.costs):
            after = reached | {total + cost for total in reached if total + cost <= self.capacity}
            for total in sorted(after):
                if total in reached:
                    yield (i + 1, total), [(i, total)], []
                if total - cost in reached:
                    yield (i + 1, total), [(i, total - cost)], [i]
            reached = after
        for total in sorted(reached):
            yield "all", [(len(self.costs), total)], []

    def mask(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Scores that forbid the items from ``lengths`` (integer Tensor that broadcasts to [*batch], 0..n) on."""
        batch_shape = make_problem(self, scores, ()).batch_shape
        n = checked_lengths("lengths", lengths, len(self.costs), batch_shape, scores.device)
        item = torch.arange(len(self.costs), device=scores.device)
        return torch.where(item >= n.unsqueeze(-1), -torch.inf, scores)

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self.costs[:8])) + (", ..." if len(self.costs) > 8 else "")
        return f"Knapsack([{shown}], {self.capacity})"
