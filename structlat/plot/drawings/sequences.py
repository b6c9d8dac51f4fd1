"""Labelled sequences: positions side by side, a colour for each label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from torch import Tensor

from structlat.plot.drawings.base import PAGE, Size, draw, fill_strip, size
from structlat.plot.drawings.names import (
    CHARACTER,
    INK,
    font_size,
    height_below,
    label_colour,
    longest,
    name_below,
    shortened,
    texts,
    width_of,
)
from structlat.structures.chain import LinearChain
from structlat.structures.semi_markov import SemiMarkov

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL = 0.28  # inches
Segment = tuple[int, int, int]  # where it starts, how long it is, its label


@draw.register(LinearChain)
def draw_chain(
    space: LinearChain, z: Tensor, ax: Axes, names: Sequence[str] | None = None, labels: Sequence[str] | None = None
) -> None:
    """A cell a position, in the colour of its label and with its name; where cells are too small, once a run of them.

    ``names`` of the positions stand below them, ``labels`` in the cells.
    """
    words = texts("labels", labels, space.states, "state")
    cells = [(t, 1, label) for t, label in enumerate(z.tolist())]
    if font_size(longest(words), width_of(ax) / space.length) is None:
        runs = [list(run) for _, run in groupby(cells, lambda cell: cell[2])]
        _draw_segments(ax, space.length, [(run[0][0], len(run), run[0][2]) for run in runs], words, 0)
        _draw_bounds(ax, range(1, space.length))
    else:
        _draw_segments(ax, space.length, cells, words, 0.04)
    _name_positions(ax, names, space.length)


@draw.register(SemiMarkov)
def draw_segmentation(
    space: SemiMarkov, z: Tensor, ax: Axes, names: Sequence[str] | None = None, labels: Sequence[str] | None = None
) -> None:
    """A bar a segment, over its positions, in the colour of its label and with its name.

    ``names`` of the positions stand below them, ``labels`` in the bars.
    """
    segments = sorted((t, d + 1, label) for t, d, label in z.nonzero().tolist())
    _draw_segments(ax, space.length, segments, texts("labels", labels, space.labels, "label"), 0.06)
    _draw_bounds(ax, sorted(set(range(space.length)) - {start for start, _, _ in segments}))
    _name_positions(ax, names, space.length)


@size.register(LinearChain)
def chain_size(space: LinearChain, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """Cells in which labels and names have room, as far as the page allows."""
    return _row_size(space.length, CHARACTER * (longest(names, labels) + 0.5), names)


@size.register(SemiMarkov)
def segmentation_size(space: SemiMarkov, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """Cells in which names have room, and bars of two positions in which labels have, as far as the page allows."""
    cell = CHARACTER * max(longest(names) + 0.5, (longest(labels) + 0.5) / min(2, space.max_length))
    return _row_size(space.length, cell, names)


def _row_size(length: int, cell: float, names: Sequence[str] | None) -> Size:
    cell = min(max(cell, CELL), PAGE / length)
    return Size(max(cell * length, 0.8), CELL, below=height_below(names, cell))


def _draw_segments(ax: Axes, length: int, segments: Iterable[Segment], words: list[str], gap: float) -> None:
    cell = width_of(ax) / length
    for start, count, label in segments:
        ax.broken_barh([(start + gap / 2, count - gap)], (0, 1), facecolors=label_colour(label))
        word, points = shortened(words[label], 0.95 * cell * count)
        ax.text(start + count / 2, 0.48, word, ha="center", va="center", fontsize=points, color=INK)
    ax.set(xlim=(0, length), ylim=(0, 1))
    fill_strip(ax)


def _draw_bounds(ax: Axes, places: Iterable[int]) -> None:
    """Short strokes between positions that lie in one bar."""
    for t in places:
        ax.plot([t, t], [0, 0.16], color="white", linewidth=1)


def _name_positions(ax: Axes, names: Sequence[str] | None, length: int) -> None:
    if names is not None:
        words = texts("names", names, length, "position")
        name_below(ax, [t + 0.5 for t in range(length)], words, width_of(ax) / length)
