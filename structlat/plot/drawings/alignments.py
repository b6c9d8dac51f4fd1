"""Alignments: a path through a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from structlat.plot.drawings.base import PAGE, Size, draw, size
from structlat.plot.drawings.names import CHARACTER, LINE, OFF, ON, SMALLEST, font_size, longest, texts
from structlat.structures.alignment import Alignment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL = 0.26  # inches
WIDE = 3  # characters from which on names of columns are turned
PATH = "#c9dcf1"  # the path's cells


@draw.register(Alignment)
def draw_alignment(
    space: Alignment, z: Tensor, ax: Axes, names: Sequence[str] | None = None, labels: Sequence[str] | None = None
) -> None:
    """The grid, and the path through it; ``names`` of the rows at the left, ``labels`` of the columns on top."""
    rows, cols = texts("names", names, space.rows, "row"), texts("labels", labels, space.cols, "column")
    cells = [(0, 0), *((i, j) for i, j, _ in z.nonzero().tolist())]
    for i, j in cells:
        ax.fill_between([j - 0.5, j + 0.5], i - 0.5, i + 0.5, color=PATH, linewidth=0)
    for at in range(space.rows + 1):
        ax.axhline(at - 0.5, color=OFF, linewidth=0.8)
    for at in range(space.cols + 1):
        ax.axvline(at - 0.5, color=OFF, linewidth=0.8)
    ax.plot([j for _, j in cells], [i for i, _ in cells], "o-", color=ON, linewidth=2, markersize=4)
    ax.set(xlim=(-0.5, space.cols - 0.5), ylim=(space.rows - 0.5, -0.5))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    points = font_size(2, _cell(space))
    if labels is not None or points is not None:
        ax.set_xticks(range(space.cols), cols, rotation=90 if longest(cols) > WIDE else 0, fontsize=points or SMALLEST)
    if names is not None or points is not None:
        ax.set_yticks(range(space.rows), rows, fontsize=points or SMALLEST)


@size.register(Alignment)
def alignment_size(space: Alignment, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """Square cells."""
    cell = _cell(space)
    rows, cols = texts("names", names, space.rows, "row"), texts("labels", labels, space.cols, "column")
    above = CHARACTER * longest(cols) + 0.05 if longest(cols) > WIDE else LINE
    return Size(cell * space.cols, cell * space.rows, left=CHARACTER * longest(rows) + 0.05, above=above)


def _cell(space: Alignment) -> float:
    return min(CELL, PAGE / max(space.rows, space.cols))
