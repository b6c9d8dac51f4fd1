"""Bits and labels: a strip of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from structlat.plot.drawings.base import PAGE, Size, draw, fill_strip, size
from structlat.plot.drawings.images import draw_image
from structlat.plot.drawings.names import (
    CHARACTER,
    INK,
    LINE,
    font_size,
    height_below,
    longest,
    name_below,
    texts,
    width_of,
)
from structlat.structures.bits import BitVector
from structlat.structures.budget import BudgetBitVector
from structlat.structures.categorical import Categorical
from structlat.structures.knapsack import Knapsack
from structlat.structures.logic import Or, Pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL = 0.28  # inches
EDGE = "#b4c3d6"
Bits = BitVector | BudgetBitVector | Or | Pair


@draw.register(BitVector)
@draw.register(BudgetBitVector)
@draw.register(Or)
@draw.register(Pair)
def draw_bits(space: Bits, z: Tensor, ax: Axes, names: Sequence[str] | None = None) -> None:
    """A cell a bit, dark where it is on; ``names`` of the bits below them."""
    _draw_cells(ax, z)
    if names is not None:
        name_below(ax, range(len(z)), texts("names", names, len(z), "bit"), width_of(ax) / len(z))


@draw.register(Knapsack)
def draw_packed(space: Knapsack, z: Tensor, ax: Axes, names: Sequence[str] | None = None) -> None:
    """A cell an item, with its cost, dark where it is packed; ``names`` of the items below them."""
    _draw_cells(ax, z)
    room = width_of(ax) / len(z)
    points = font_size(longest(space.costs), room)
    for i, (cost, packed) in enumerate(zip(space.costs, z.tolist(), strict=True)):
        if points is not None:
            ax.text(i, 0, str(cost), ha="center", va="center", fontsize=points, color="white" if packed else INK)
    if names is not None:
        name_below(ax, range(len(z)), texts("names", names, len(z), "item"), room)


@draw.register(Categorical)
def draw_choice(space: Categorical, z: Tensor, ax: Axes, names: Sequence[str] | None = None) -> None:
    """A cell a label, the chosen one dark, with its number, or its name, below it."""
    _draw_cells(ax, space.vertex(z))
    chosen = int(z)
    ax.set_xticks([chosen], [texts("names", names, space.n, "label")[chosen]])


@size.register(BitVector)
@size.register(BudgetBitVector)
@size.register(Or)
@size.register(Pair)
@size.register(Knapsack)
def strip_size(space: Bits | Knapsack, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """Cells in which names have room, as far as the page allows."""
    n = space.shape[0]
    cell = min(max(CELL, CHARACTER * (longest(names) + 0.5)), PAGE / n)
    return Size(max(cell * n, 0.8), CELL, below=height_below(names, cell))


@size.register(Categorical)
def choice_size(space: Categorical, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """Room for one name at a time."""
    return Size(min(max(CELL * space.n, CHARACTER * longest(names), 0.8), PAGE), CELL, below=LINE)


def _draw_cells(ax: Axes, z: Tensor) -> None:
    n = len(z)
    draw_image(ax, z.unsqueeze(0))
    fill_strip(ax)
    if width_of(ax) >= 0.1 * n:
        for i in range(1, n):
            ax.axvline(i - 0.5, color=EDGE, linewidth=0.8)
    ax.spines[:].set_color(EDGE)
