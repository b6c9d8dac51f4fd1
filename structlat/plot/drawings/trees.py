"""Binary trees above their leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from structlat.plot.drawings.base import PAGE, Size, draw, size
from structlat.plot.drawings.names import (
    CHARACTER,
    INK,
    ON,
    height_below,
    label_colour,
    longest,
    name_below,
    texts,
    width_of,
)
from structlat.structures.binary_tree import BinaryTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOX = 0.11  # inches, half the height of a label's box
Span = tuple[int, int]


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
    place, children = _places(label_of)
    for span, pair in children.items():
        for child in pair:
            ax.plot(*zip(place[span], place[child], strict=True), color=ON, linewidth=1.4, zorder=1)
    for span, (x, y) in place.items():
        if space.labels > 1:
            box = {"boxstyle": "round,pad=0.25", "facecolor": label_colour(label_of[span]), "edgecolor": "white"}
            ax.text(x, y, words[label_of[span]], ha="center", va="center", fontsize="small", color=INK, bbox=box)
        else:
            ax.plot([x], [y], "o", color=ON, markersize=4, zorder=2)
    # boxes lie within the axes, so that nothing above or below meets them
    top = max(y for _, y in place.values())
    tall = max(ax.get_window_extent().height / ax.figure.dpi, 4 * BOX)
    margin = BOX * max(top, 1) / (tall - 2 * BOX)
    ax.set(xlim=(-0.5, space.leaves - 0.5), ylim=(-margin, max(top, 1) + margin))
    name_below(ax, range(space.leaves), leaves, width_of(ax) / space.leaves)


@size.register(BinaryTree)
def bracketing_size(space: BinaryTree, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """Leaves side by side, with their labels."""
    leaves = texts("names", names, space.leaves, "leaf")
    box = longest(labels) + 2 if space.labels > 1 else 0
    leaf = min(CHARACTER * max(longest(leaves) + 1, box, 4), PAGE / space.leaves)
    tall = min((0.34 if box else 0.28) * max(space.leaves, 2), 3.0)
    return Size(leaf * space.leaves, tall, below=height_below(leaves, leaf))


def _places(spans: dict[Span, int]) -> tuple[dict[Span, tuple[float, float]], dict[Span, tuple[Span, Span]]]:
    """Where each span is drawn: leaves at 0, others above the middle of their two parts; and which these are."""
    place: dict[Span, tuple[float, float]] = {}
    children: dict[Span, tuple[Span, Span]] = {}
    for i, j in sorted(spans, key=lambda span: span[1] - span[0]):
        if i == j:
            place[i, j] = float(i), 0.0
            continue
        cut = next(k for k in range(i, j) if (i, k) in place and (k + 1, j) in place)
        left, right = children[i, j] = (i, cut), (cut + 1, j)
        (x, y), (other_x, other_y) = place[left], place[right]
        place[i, j] = (x + other_x) / 2, max(y, other_y) + 1
    return place, children
