"""A factor, and what a graph of them is called with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from structlat.errors import ArgumentError
from structlat.factors.layout import Layout
from structlat.structure import Structure


class Factor(NamedTuple):
    """A structure and the variables that are its parts, [*lead, *shape] int64; or as many of them as ``lead`` says."""

    structure: Structure
    variables: Tensor

    @property
    def lead(self) -> torch.Size:
        """How many factors: () for one."""
        return self.variables.shape[: self.variables.ndim - len(self.structure.shape)]

    @property
    def extra_shapes(self) -> tuple[torch.Size, ...]:
        """Shapes [*lead, *extra_shape] of the extra scores that a caller gives."""
        own = len(self.structure.own_extra)
        shapes = self.structure.extra_shapes
        return tuple(self.lead + torch.Size(shape) for shape in shapes[: len(shapes) - own])


class FactorGraphScores(Structure):
    """What a graph is called with: scores of its variables, and extra scores of all factors. It has no oracle."""

    def __init__(self, variables: int, symmetric: bool, factors: Sequence[Factor], layout: Layout) -> None:
        self.layout = layout
        self.shape = torch.Size([variables])
        self.symmetric = symmetric
        own = [(f.lead, x, s) for f in factors for x, s in _own(f.structure)]
        self.own_extra = tuple(_at_all(lead, x, s) for lead, x, s in own)
        given = tuple(shape for f in factors for shape in f.extra_shapes)
        self.extra_shapes = given + tuple(lead + s for lead, _, s in own)

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """There is none."""
        raise NotImplementedError("a graph of factors has no exact oracle: lp_sparsemap gives its marginals")


def _own(structure: Structure) -> list[tuple[Tensor, torch.Size]]:
    own = structure.own_extra
    shapes = structure.extra_shapes[len(structure.extra_shapes) - len(own) :]
    return [(x, torch.Size(shape)) for x, shape in zip(own, shapes, strict=True)]


def _at_all(lead: torch.Size, x: Tensor, shape: torch.Size) -> Tensor:
    """A structure's own extra scores at all of its factors: [*rows, *lead, *shape]."""
    rows = x.shape[: x.ndim - len(shape)]
    try:
        return x.expand(torch.broadcast_shapes(rows, lead) + shape)
    except RuntimeError:
        raise ArgumentError(
            f"structure: got one made for rows of shape {tuple(rows)}; expected one that broadcasts to [*batch, *lead] "
            f"with lead {tuple(lead)}"
        ) from None
