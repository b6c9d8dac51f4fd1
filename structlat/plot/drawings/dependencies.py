"""Dependency trees: arcs above the words of a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from structlat.plot.drawings.base import Size, draw, size
from structlat.plot.drawings.names import CHARACTER, INK, ON, height_below, longest, name_below, texts, width_of
from structlat.structures.dependency_tree import DependencyTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROUND = 2.6  # exponent of an arc's superellipse: 2 is an ellipse, more is boxier
LEVEL = 0.32  # inches from an arc to the next one above it
ASIDE = 0.9  # characters from a word's middle, where its own arrow arrives, to where arcs leave it
WIDEST = 16.0  # inches


@draw.register(DependencyTree)
def draw_dependencies(space: DependencyTree, z: Tensor, ax: Axes, names: Sequence[str] | None = None) -> None:
    """Words on a line, an arc from each head to the word that hangs on it, from above where that is the root.

    ``names`` are the words.
    """
    words = texts("names", names, space.words, "word")
    place, total = _word_places(words)
    heads = z.tolist()
    levels = _levels([_ends(word, head) for word, head in enumerate(heads) if head])
    tall = ax.get_window_extent().height / ax.figure.dpi
    top = max(max(levels.values(), default=0) + 0.8, tall / LEVEL)
    for word, head in enumerate(heads):
        x = place[word]
        if head:
            start = place[head - 1] + math.copysign(ASIDE, x - place[head - 1])
            ax.plot(*_arc(start, x, levels[_ends(word, head)]), color=ON, linewidth=1.4)
        else:
            ax.plot([x, x], [0, top], color=ON, linewidth=1.4)
            style: dict[str, Any] = {"ha": "left", "va": "top", "fontsize": "x-small", "color": INK}
            ax.annotate("root", (x, top), (3, -1), textcoords="offset points", **style)
    ax.plot(place, [0.1] * len(place), "v", color=ON, markersize=5)
    ax.set(xlim=(0, total), ylim=(0, top))
    name_below(ax, place, words, width_of(ax) * (longest(words) + 0.5) / total)


@size.register(DependencyTree)
def dependencies_size(space: DependencyTree, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """Words side by side, and room for the arcs of usual trees."""
    words = texts("names", names, space.words, "word")
    _, total = _word_places(words)
    wide = min(CHARACTER * total, WIDEST)
    below = height_below(words, wide * (longest(words) + 0.5) / total)
    return Size(wide, LEVEL * min(1.5 + 0.35 * space.words, 7), below=below)


def _word_places(words: list[str]) -> tuple[list[float], float]:
    """The middle of each word on the line, and its length, in characters."""
    widths = [max(len(word), 2) + 1.5 for word in words]
    return [end - width / 2 for end, width in zip(accumulate(widths), widths, strict=True)], sum(widths)


def _ends(word: int, head: int) -> tuple[int, int]:
    """The words between which an arc is drawn, from the left to the right."""
    return min(word, head - 1), max(word, head - 1)


def _levels(arcs: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """How high each arc is: one more than the arcs below it."""
    levels: dict[tuple[int, int], int] = {}
    for low, high in sorted(arcs, key=lambda arc: arc[1] - arc[0]):
        below = (level for (a, b), level in levels.items() if low <= a and b <= high)
        levels[low, high] = 1 + max(below, default=0)
    return levels


def _arc(start: float, end: float, height: float) -> tuple[list[float], list[float]]:
    """The upper half of a superellipse, upright at its ends."""
    turn = np.linspace(0, np.pi, 41)
    across = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / ROUND)
    upwards = height * np.abs(np.sin(turn)) ** (2 / ROUND)
    return ((start + end + across * (start - end)) / 2).tolist(), upwards.tolist()
