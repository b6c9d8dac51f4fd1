"""Bits and labels: a strip of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from structlat.plot.drawings.base import CHARACTER, INK, draw, font_size, longest, size, texts, width_of
from structlat.plot.drawings.images import draw_image
from structlat.structure import Structure
from structlat.structures.bits import BitVector
from structlat.structures.budget import BudgetBitVector
from structlat.structures.categorical import Categorical
from structlat.structures.knapsack import Knapsack

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL = 0.26  # inches
PAGE = 9.0  # inches that a strip is wide at most


@draw.register(BitVector)
@draw.register(BudgetBitVector)
def draw_bits(space: Structure, z: Tensor, ax: Axes, names: Sequence[str] | None = None) -> None:
    """A cell a bit, dark where it is on; ``names`` of the bits below them."""
    _draw_cells(ax, z)
    if names is not None:
        _name_cells(ax, texts("names", names, len(z), "bit"))


@draw.register(Knapsack)
def draw_knapsack(space: Knapsack, z: Tensor, ax: Axes, names: Sequence[str] | None = None) -> None:
    """A cell an item, with its cost, dark where it is packed; ``names`` of the items below them."""
    _draw_cells(ax, z)
    points = font_size(longest(space.costs), width_of(ax) / len(z))
    for i, (cost, packed) in enumerate(zip(space.costs, z.tolist(), strict=True)):
        if points is not None:
            ax.text(i, 0, str(cost), ha="center", va="center", fontsize=points, color="white" if packed else INK)
    if names is not None:
        _name_cells(ax, texts("names", names, len(z), "item"))


@draw.register(Categorical)
def draw_label(space: Categorical, z: Tensor, ax: Axes, names: Sequence[str] | None = None) -> None:
    """A cell a label, the chosen one dark, with its number, or its name, below it."""
    _draw_cells(ax, space.vertex(z))
    chosen = int(z)
    ax.set_xticks([chosen], [texts("names", names, space.n, "label")[chosen]])


@size.register(BitVector)
@size.register(BudgetBitVector)
@size.register(Knapsack)
@size.register(Categorical)
def strip_size(space: Structure, names: Sequence[str] | None, labels: Sequence[str] | None) -> tuple[float, float]:
    """Cells that are squares, and so wide that names have room side by side."""
    n = space.shape[0]
    every = names if not isinstance(space, Categorical) else None
    across = min(max(n * max(CELL, CHARACTER * (longest(every) + 1) if every else 0), CHARACTER * longest(names)), PAGE)
    below = 0.2 if names is not None or isinstance(space, Categorical) else 0
    return max(across, 0.8), max(min(CELL, across / n), 0.1) + below


def _draw_cells(ax: Axes, z: Tensor) -> None:
    n = len(z)
    draw_image(ax, z.unsqueeze(0))
    if width_of(ax) >= 0.1 * n:
        for i in range(1, n):
            ax.axvline(i - 0.5, color="white", linewidth=1.5)
    ax.spines[:].set_color("#9fb2c8")


def _name_cells(ax: Axes, names: list[str]) -> None:
    rotation = 0 if font_size(longest(names), width_of(ax) / len(names)) is not None else 90
    ax.set_xticks(range(len(names)), names, rotation=rotation)
