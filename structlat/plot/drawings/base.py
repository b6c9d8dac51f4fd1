"""What every drawing is made of: where spaces register theirs, the size that it wants, names and colours."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from torch import Tensor

from structlat.errors import ArgumentError
from structlat.plot.drawings.images import draw_image, image_shape, image_size
from structlat.structure import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ON, OFF, INK = "#1f5fa8", "#d3d8de", "#333333"  # what the structure uses, what it does not, text
# Light colours that differ for the colour-blind too and that dark text reads on (Paul Tol's "light" scheme)
LABELS = ("#77aadd", "#eedd88", "#ee8866", "#44bb99", "#ffaabb", "#99ddff", "#bbcc33", "#aaaa00", "#dddddd")
CHARACTER = 0.08  # inches, of small text
ANY_SIZE = (2.2, 2.0)  # inches, for a drawing that somebody registered


@singledispatch
def draw(space: Structure, z: Tensor, ax: Axes) -> None:
    """Draw one structure z [*event] of ``space`` on ``ax``, in the way of that kind of space.

    This is a :func:`functools.singledispatch` function: a space of your own gets a drawing of its own, which
    ``plot.structure`` and ``plot.distribution`` then use for it, and for spaces derived from it, by ::

        @sl.plot.draw.register(MySpace)
        def draw_mine(space, z, ax):
            ax.plot(...)

    The drawing may take ``names`` and ``labels`` as further arguments with None for a default; those that a caller of
    ``structure`` gave are passed on. z comes without a graph, on the host. Ticks and frame are taken off beforehand.
    A space with no drawing of its own is drawn as an image of its vertex.
    """
    draw_image(ax, space.vertex(z).reshape(image_shape(space)))


@singledispatch
def size(space: Structure, names: Sequence[str] | None, labels: Sequence[str] | None) -> tuple[float, float]:
    """Width and height, in inches, at which a drawing of ``space`` reads well."""
    if draw.dispatch(type(space)) is not draw.dispatch(object):
        return ANY_SIZE
    return image_size(*image_shape(space))


def draw_named(space: Structure, z: Tensor, ax: Axes, **named: Sequence[str] | None) -> None:
    """``draw``, with the names that were given, or an error where this drawing has no place for them."""
    given = {name: x for name, x in named.items() if x is not None}
    drawing = draw.dispatch(type(space))
    known = inspect.signature(drawing).parameters
    takes_any = any(x.kind is inspect.Parameter.VAR_KEYWORD for x in known.values())
    for name, x in given.items():
        if name not in known and not takes_any:
            raise ArgumentError(f"{name}: got {x!r}; the drawing of a {type(space).__name__} has no place for {name}")
    bare(ax)
    drawing(space, z, ax, **given)


def bare(ax: Axes) -> None:
    """Axes without ticks and frame; title and axis labels stay possible."""
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0, pad=3, labelsize="small", labelcolor=INK)
    ax.set_frame_on(False)


def texts(name: str, given: Sequence[Hashable] | None, count: int, what: str) -> list[str]:
    """The ``count`` texts that a caller gave as the argument ``name``, one a ``what``; by default their numbers."""
    if given is None:
        return [str(i) for i in range(count)]
    if isinstance(given, str) or not hasattr(given, "__len__") or len(given) != count:
        raise ArgumentError(f"{name}: got {given!r}; expected {count} names, one a {what}")
    return [str(x) for x in given]


def label_colour(label: int) -> str:
    """The colour of a label's cells."""
    return LABELS[label % len(LABELS)]


def longest(*several: Sequence[Any] | None) -> int:
    """Characters in the longest of the names."""
    return max((len(str(x)) for names in several if names is not None for x in names), default=1)


def width_of(ax: Axes) -> float:
    """Inches that the axes are wide now; a layout may still change it a little."""
    return float(ax.get_window_extent().width / ax.figure.dpi)


def font_size(characters: int, room: float) -> float | None:
    """Points for so many characters in ``room`` inches, at most those of small text; None where nobody could read
    it.
    """
    points = min(8.3, 8.3 * room / (CHARACTER * characters))
    return points if points >= 5 else None
