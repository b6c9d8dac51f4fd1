"""Matchings of two sides: dots in two columns, and lines between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from structlat.plot.drawings.base import Size, draw, size
from structlat.plot.drawings.names import CHARACTER, FAINT, INK, OFF, ON, longest, texts
from structlat.structures.matching import BipartiteMatching

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = 0.26  # inches from dot to dot


@draw.register(BipartiteMatching)
def draw_matching(
    space: BipartiteMatching,
    z: Tensor,
    ax: Axes,
    names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Rows at the left, columns at the right, the first on top; a line a pair. What has no partner is pale.

    ``names`` of the rows, ``labels`` of the columns.
    """
    heights = _places(space.rows, space.cols), _places(space.cols, space.rows)
    words = texts("names", names, space.rows, "row"), texts("labels", labels, space.cols, "column")
    pairs = [(row, col) for row, col in enumerate(z.tolist()) if col >= 0]
    for row, col in pairs:
        ax.plot([0, 1], [heights[0][row], heights[1][col]], color=ON, linewidth=1.8, zorder=1)
    for side, (offset, ha) in enumerate(((-6, "right"), (6, "left"))):
        used = {pair[side] for pair in pairs}
        for i, (y, word) in enumerate(zip(heights[side], words[side], strict=True)):
            ax.plot([side], [y], "o", color=ON if i in used else OFF, markersize=6, zorder=2)
            ink = INK if i in used else FAINT
            style: dict[str, Any] = {"ha": ha, "va": "center", "fontsize": "small", "color": ink}
            ax.annotate(word, (side, y), (offset, 0), textcoords="offset points", **style)
    last = max(space.rows, space.cols) - 1
    ax.set(xlim=(-0.05, 1.05), ylim=(last + 0.4, -0.4))


@size.register(BipartiteMatching)
def matching_size(space: BipartiteMatching, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """Lines that are not too steep."""
    rows, cols = texts("names", names, space.rows, "row"), texts("labels", labels, space.cols, "column")
    tallest = max(space.rows, space.cols)
    sides = (CHARACTER * longest(side) + 0.05 for side in (rows, cols))
    return Size(max(0.8, 0.2 * STEP * tallest), STEP * tallest, *sides)


def _places(count: int, other: int) -> list[float]:
    """Heights of the dots of one side, the shorter one in the middle of the longer."""
    return [i + max(other - count, 0) / 2 for i in range(count)]
