"""Labelled sequences: positions side by side, a colour for each label; and alignments of two sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from torch import Tensor

from structlat.plot.drawings.base import (
    CHARACTER,
    INK,
    ON,
    draw,
    font_size,
    label_colour,
    longest,
    size,
    texts,
    width_of,
)
from structlat.plot.drawings.strips import PAGE
from structlat.structures.alignment import MOVES, Alignment
from structlat.structures.chain import LinearChain
from structlat.structures.semi_markov import SemiMarkov

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL = 0.3  # inches
Segment = tuple[int, int, int]  # where it starts, how long it is, its label


@draw.register(LinearChain)
def draw_chain(
    space: LinearChain, z: Tensor, ax: Axes, names: Sequence[str] | None = None, labels: Sequence[str] | None = None
) -> None:
    """A cell a position, in the colour of its label and with its name; where cells are too small, once a run of them.

    ``names`` of the positions stand below them, ``labels`` in the cells.
    """
    words = texts("labels", labels, space.states, "state")
    states = z.tolist()
    cells = [(t, 1, label) for t, label in enumerate(states)]
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
    _name_positions(ax, names, space.length)
    _draw_bounds(ax, [t for t in range(space.length) if t not in {start for start, _, _ in segments}])


@draw.register(Alignment)
def draw_alignment(
    space: Alignment, z: Tensor, ax: Axes, names: Sequence[str] | None = None, labels: Sequence[str] | None = None
) -> None:
    """The grid, and the path through it; ``names`` of the rows at the left, ``labels`` of the columns on top."""
    cells = [(0, 0), *sorted((i, j) for i, j, step in z.nonzero().tolist() if step < len(MOVES))]
    for i, j in cells:
        ax.fill_between([j - 0.5, j + 0.5], i - 0.5, i + 0.5, color="#c9dcf1", linewidth=0)
    for at in range(space.rows + 1):
        ax.plot([-0.5, space.cols - 0.5], [at - 0.5] * 2, color="#d3d8de", linewidth=0.8)
    for at in range(space.cols + 1):
        ax.plot([at - 0.5] * 2, [-0.5, space.rows - 0.5], color="#d3d8de", linewidth=0.8)
    ax.plot([j for _, j in cells], [i for i, _ in cells], "o-", color=ON, linewidth=2, markersize=4)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_yticks(range(space.rows), texts("names", names, space.rows, "row"))
    ax.set_xticks(range(space.cols), texts("labels", labels, space.cols, "column"))
    ax.set(xlim=(-0.5, space.cols - 0.5), ylim=(space.rows - 0.5, -0.5), aspect="equal")


@size.register(LinearChain)
@size.register(SemiMarkov)
def sequence_size(
    space: LinearChain | SemiMarkov, names: Sequence[str] | None, labels: Sequence[str] | None
) -> tuple[float, float]:
    """Cells in which labels have room, as far as the page allows."""
    in_cells = labels if isinstance(space, LinearChain) else None
    cell = max(CELL, CHARACTER * (longest(names, in_cells) + 1))
    return min(max(cell * space.length, 1.0), PAGE), CELL + (0.2 if names is not None else 0)


@size.register(Alignment)
def alignment_size(space: Alignment, names: Sequence[str] | None, labels: Sequence[str] | None) -> tuple[float, float]:
    """Square cells."""
    cell = max(min(0.26, PAGE / space.cols, PAGE / space.rows), 0.05)
    return cell * space.cols + CHARACTER * (longest(names) + 1), cell * space.rows + 0.25


def _draw_segments(ax: Axes, length: int, segments: Iterable[Segment], words: list[str], gap: float) -> None:
    cell = width_of(ax) / length
    for start, count, label in segments:
        ax.broken_barh([(start + gap / 2, count - gap)], (0, 1), facecolors=label_colour(label))
        points = font_size(len(words[label]), 0.95 * cell * count)
        if points is not None:
            ax.text(start + count / 2, 0.48, words[label], ha="center", va="center", fontsize=points, color=INK)
    ax.set(xlim=(0, length), ylim=(0, 1))


def _draw_bounds(ax: Axes, places: Iterable[int]) -> None:
    """Short strokes between positions that lie in one bar."""
    for t in places:
        ax.plot([t, t], [0, 0.16], color="white", linewidth=1)


def _name_positions(ax: Axes, names: Sequence[str] | None, length: int) -> None:
    if names is not None:
        words = texts("names", names, length, "position")
        turned = font_size(longest(words), width_of(ax) / length) is None
        ax.set_xticks([t + 0.5 for t in range(length)], words, rotation=90 if turned else 0)
