"""0/1 arrays as images: what any structure can be drawn as."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from structlat.errors import ArgumentError
from structlat.structure import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRIP = 5  # an image this many times wider than high is a strip: strips are stacked


def image_shape(space: Structure, shape: tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width of the image of a vertex: ``shape``, or those of the scores."""
    own = torch.Size(space.shape)
    if shape is None:
        if len(own) > 2:
            raise ArgumentError(f"shape: got None; expected a height and a width for vertices of shape {tuple(own)}")
        height, width = (1, 1, *own)[-2:]
        return height, width
    if len(shape) != 2 or min(shape) < 1 or shape[0] * shape[1] != own.numel():
        raise ArgumentError(
            f"shape: got {tuple(shape)!r}; expected a height and a width whose product is {own.numel()}, "
            f"for vertices of shape {tuple(own)}"
        )
    return shape


def image_size(height: int, width: int) -> tuple[float, float]:
    """Inches for an image of so many cells: a strip takes the width of a page."""
    across = 6.0 if width >= STRIP * height else 1.5
    return across, max(across * height / width, 0.2)


def draw_image(ax: Axes, image: Tensor) -> None:
    """An array [height, width] of numbers from 0 on: dark where a part is on, with a frame, without ticks."""
    top = max(1.0, float(image.max())) if image.numel() else 1.0
    ax.imshow(image.to(torch.float64).numpy(), cmap="Blues", vmin=0, vmax=1.25 * top, interpolation="nearest")
    ax.set_frame_on(True)
    ax.set_xticks([])
    ax.set_yticks([])
