"""Spaces made of spaces: each member in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from structlat.plot.drawings.base import Size, draw, draw_named, size
from structlat.structures.product import Product
from structlat.structures.restricted import Restricted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BETWEEN = 0.15  # inches
FLAT = 3.0  # members this many times wider than high are put one below the other


@draw.register(Product)
def draw_members(space: Product, z: Tensor, ax: Axes) -> None:
    """The members' structures, strips one below the other, anything else side by side."""
    sizes = [size(member, None, None) for member in space.spaces]
    across, tall = size(space, None, None).outer
    down = _one_below_the_other(sizes)
    done = 0.0
    for member, part, own in zip(space.spaces, space.split(z), sizes, strict=True):
        width, height = own.outer
        left, top = (0.0, done) if down else (done, (tall - height) / 2)
        bottom = tall - top - own.above - own.height
        box = ((left + own.left) / across, bottom / tall, own.width / across, own.height / tall)
        draw_named(member, part, ax.inset_axes(box))
        done += (height if down else width) + BETWEEN


@draw.register(Restricted)
def draw_restricted(
    space: Restricted, z: Tensor, ax: Axes, names: Sequence[str] | None = None, labels: Sequence[str] | None = None
) -> None:
    """As a structure of the whole space."""
    draw_named(space.space, z, ax, names=names, labels=labels)


@size.register(Restricted)
def restricted_size(space: Restricted, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """That of the whole space."""
    return size(space.space, names, labels)


@size.register(Product)
def product_size(space: Product, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """Room for all members."""
    sizes = [size(member, None, None) for member in space.spaces]
    gaps = BETWEEN * (len(sizes) - 1)
    across, tall = zip(*(own.outer for own in sizes), strict=True)
    if _one_below_the_other(sizes):
        return Size(max(across), sum(tall) + gaps)
    return Size(sum(across) + gaps, max(tall))


def _one_below_the_other(sizes: list[Size]) -> bool:
    return all(own.width >= FLAT * own.height for own in sizes)
