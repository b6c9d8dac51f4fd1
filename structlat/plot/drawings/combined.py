"""Spaces made of spaces: each member in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from structlat.plot.drawings.base import draw, draw_named, size
from structlat.structures.product import Product

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BETWEEN = 0.18  # inches
FLAT = 3.0  # members this many times wider than high are put one below the other


@draw.register(Product)
def draw_members(space: Product, z: Tensor, ax: Axes) -> None:
    """The members' structures, strips one below the other, anything else side by side."""
    sizes = [size(member, None, None) for member in space.spaces]
    across, tall = size(space, None, None)
    down = _one_below_the_other(sizes)
    done = 0.0
    for member, part, (w, h) in zip(space.spaces, space.split(z), sizes, strict=True):
        if down:
            box = (0.0, 1 - (done + h) / tall, w / across, h / tall)
        else:
            box = (done / across, (1 - h / tall) / 2, w / across, h / tall)
        draw_named(member, part, ax.inset_axes(box))
        done += (h if down else w) + BETWEEN


@size.register(Product)
def product_size(space: Product, names: Sequence[str] | None, labels: Sequence[str] | None) -> tuple[float, float]:
    """Room for all members."""
    sizes = [size(member, None, None) for member in space.spaces]
    gaps = BETWEEN * (len(sizes) - 1)
    across, tall = zip(*sizes, strict=True)
    return (max(across), sum(tall) + gaps) if _one_below_the_other(sizes) else (sum(across) + gaps, max(tall))


def _one_below_the_other(sizes: list[tuple[float, float]]) -> bool:
    return all(width >= FLAT * height for width, height in sizes)
