"""Matchings of two sides: dots in two columns, and lines between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from structlat.plot.drawings.base import CHARACTER, INK, OFF, ON, draw, longest, size, texts
from structlat.structures.matching import BipartiteMatching

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        ax.plot([0, 1], [heights[0][row], heights[1][col]], color=ON, linewidth=1.8, solid_capstyle="round", zorder=1)
    for side in range(2):
        used = {pair[side] for pair in pairs}
        for i, y in enumerate(heights[side]):
            color = ON if i in used else OFF
            ax.plot([side], [y], "o", color=color, markersize=6, zorder=2)
            ax.annotate(
                words[side][i],
                (side, y),
                ((-7, 7)[side], 0),
                textcoords="offset points",
                ha=("right", "left")[side],
                va="center",
                fontsize="small",
                color=INK if i in used else "#8a8f96",
            )
    last = max(space.rows, space.cols) - 1
    ax.set(xlim=(-0.05, 1.05), ylim=(last + 0.3, -0.3))


@size.register(BipartiteMatching)
def matching_size(
    space: BipartiteMatching, names: Sequence[str] | None, labels: Sequence[str] | None
) -> tuple[float, float]:
    """Lines that are not too steep, and room for the names."""
    tallest = max(space.rows, space.cols)
    return 0.9 + CHARACTER * (longest(names) + longest(labels) + 2), min(max(0.26 * tallest, 0.5), 9.0)


def _places(count: int, other: int) -> list[float]:
    """Heights of the dots of one side, the shorter one in the middle of the longer."""
    return [i + max(other - count, 0) / 2 for i in range(count)]
