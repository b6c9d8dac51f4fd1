"""Where spaces register how they are drawn, and how large the drawing likes to be."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import singledispatch
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from structlat.errors import ArgumentError
from structlat.plot.drawings.images import draw_image, image_shape, image_size
from structlat.plot.drawings.names import INK
from structlat.structure import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = 9.0  # inches that a drawing is wide at most


class Size(NamedTuple):
    """Inches: of the axes, and of the room that names take around them."""

    width: float
    height: float
    left: float = 0.0
    right: float = 0.0
    below: float = 0.0
    above: float = 0.0

    @property
    def outer(self) -> tuple[float, float]:
        """Width and height with the names."""
        return self.left + self.width + self.right, self.below + self.height + self.above


ANY = Size(2.2, 2.0)  # of a drawing that somebody registered


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
def size(space: Structure, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """The size at which a drawing of ``space`` reads well."""
    return ANY if has_drawing(space) else Size(*image_size(*image_shape(space)))


def has_drawing(space: Structure) -> bool:
    """Whether it is drawn otherwise than as an image."""
    return draw.dispatch(type(space)) is not draw.dispatch(object)


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


def fill_strip(ax: Axes) -> None:
    """Cells side by side are as high as wide axes, and squares in others."""
    box = ax.get_window_extent()
    ax.set_aspect("auto" if box.width >= 1.5 * box.height else "equal")


def bare(ax: Axes) -> None:
    """Axes without ticks and frame; title and axis labels stay possible."""
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0, pad=3, labelsize="small", labelcolor=INK)
    ax.set_frame_on(False)
