"""Trees over a sequence: dependency arcs above words, and binary bracketings above leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from torch import Tensor

from structlat.plot.drawings.base import CHARACTER, INK, ON, draw, label_colour, longest, size, texts
from structlat.plot.drawings.strips import PAGE
from structlat.structures.binary_tree import BinaryTree
from structlat.structures.dependency_tree import DependencyTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROUND = 2.6  # exponent of an arc's superellipse: 2 is an ellipse, more is boxier
POINTS = 33  # of an arc


@draw.register(DependencyTree)
def draw_dependencies(space: DependencyTree, z: Tensor, ax: Axes, names: Sequence[str] | None = None) -> None:
    """Words on a line, an arc from each head to the word that hangs on it, from above where that is the root.

    ``names`` are the words.
    """
    words = texts("names", names, space.words, "word")
    place = _word_places(words)
    heads = z.tolist()
    arcs = [(min(word, head - 1), max(word, head - 1)) for word, head in enumerate(heads) if head]
    levels = _levels(arcs)
    top = max(levels.values(), default=0) + 1.0
    for word, head in enumerate(heads):
        x = place[word]
        if head == 0:
            ax.plot([x, x], [0, top], color=ON, linewidth=1.4)
            ax.annotate("root", (x, top), (0, 1), textcoords="offset points", ha="center", va="bottom", fontsize=7)
        else:
            # away from the middle of the head, where its own arrow arrives
            start = place[head - 1] + math.copysign(0.7, x - place[head - 1])
            height = levels[min(word, head - 1), max(word, head - 1)]
            turns = [-1 + 2 * i / (POINTS - 1) for i in range(POINTS)]
            across = [math.copysign(abs(math.sin(t * math.pi / 2)) ** (2 / ROUND), t) for t in turns]
            upwards = [height * abs(math.cos(t * math.pi / 2)) ** (2 / ROUND) for t in turns]
            ax.plot([(start + x + a * (x - start)) / 2 for a in across], upwards, color=ON, linewidth=1.4)
    ax.plot(place, [0.0] * len(place), "v", color=ON, markersize=5, clip_on=False)
    ax.set_xticks(place, words)
    half = (len(words[0]) + 2) / 2, (len(words[-1]) + 2) / 2
    ax.set(xlim=(place[0] - half[0], place[-1] + half[1]), ylim=(-0.12, top))


@draw.register(BinaryTree)
def draw_bracketing(
    space: BinaryTree, z: Tensor, ax: Axes, names: Sequence[str] | None = None, labels: Sequence[str] | None = None
) -> None:
    """The tree above its leaves, with the label of each span where there are several labels.

    ``names`` of the leaves stand below them, ``labels`` in the tree.
    """
    leaves = texts("names", names, space.leaves, "leaf")
    words = texts("labels", labels, space.labels, "label")
    label_of = {(i, j): label for i, j, label in z.nonzero().tolist()}
    place: dict[tuple[int, int], tuple[float, float]] = {}
    for i, j in sorted(label_of, key=lambda span: span[1] - span[0]):
        cut = next((k for k in range(i, j) if (i, k) in place and (k + 1, j) in place), None)
        if cut is None:
            place[i, j] = float(i), 0.0
            continue
        below = place[i, cut], place[cut + 1, j]
        x, y = (below[0][0] + below[1][0]) / 2, max(below[0][1], below[1][1]) + 1
        place[i, j] = x, y
        for child in below:
            ax.plot([x, child[0]], [y, child[1]], color=ON, linewidth=1.4, solid_capstyle="round", zorder=1)
    for span, (x, y) in place.items():
        if space.labels > 1:
            box = {"boxstyle": "round,pad=0.25", "facecolor": label_colour(label_of[span]), "edgecolor": "white"}
            ax.text(x, y, words[label_of[span]], ha="center", va="center", fontsize="small", color=INK, bbox=box)
        else:
            ax.plot([x], [y], "o", color=ON, markersize=4, zorder=2, clip_on=False)
    top = max(y for _, y in place.values())
    ax.tick_params(pad=8 if space.labels > 1 else 4)
    ax.set_xticks(range(space.leaves), leaves)
    ax.set(xlim=(-0.5, space.leaves - 0.5), ylim=(-0.1, top + 0.1))


@size.register(DependencyTree)
def dependencies_size(
    space: DependencyTree, names: Sequence[str] | None, labels: Sequence[str] | None
) -> tuple[float, float]:
    """Words side by side, and arcs that are as high as few words make them."""
    words = texts("names", names, space.words, "word")
    return min(CHARACTER * sum(max(len(word), 2) + 2 for word in words), PAGE), min(0.5 + 0.16 * space.words, 2.0)


@size.register(BinaryTree)
def bracketing_size(
    space: BinaryTree, names: Sequence[str] | None, labels: Sequence[str] | None
) -> tuple[float, float]:
    """Leaves side by side."""
    several = 1 if space.labels > 1 else 0
    leaf = CHARACTER * max(longest(names) + 1, several * (longest(labels) + 3), 4)
    return min(leaf * space.leaves, PAGE), min(0.3 + (0.25 + 0.08 * several) * space.leaves, 3.0)


def _word_places(words: list[str]) -> list[float]:
    """The middle of each word on the line, in characters."""
    widths = [max(len(word), 2) + 2 for word in words]
    return [end - width / 2 for end, width in zip(accumulate(widths), widths, strict=True)]


def _levels(arcs: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """How high each arc is: one more than the arcs below it."""
    levels: dict[tuple[int, int], int] = {}
    for low, high in sorted(arcs, key=lambda arc: arc[1] - arc[0]):
        below = (level for (a, b), level in levels.items() if low <= a and b <= high)
        levels[low, high] = 1 + max(below, default=0)
    return levels
