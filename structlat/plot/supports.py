"""Pictures of a support: its structures as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from structlat.distribution import SparseDistribution
from structlat.errors import ArgumentError
from structlat.plot.backend import pyplot
from structlat.structure import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLUMNS = 6  # structures side by side, where they are not strips
STRIP = 5  # an image this many times wider than high is a strip: strips are stacked


def distribution(
    post: SparseDistribution,
    row: int = 0,
    shape: tuple[int, int] | None = None,
    limit: int = 12,
    axes: Sequence[Axes] | None = None,
) -> Figure | SubFigure:
    """Draw the support of one row: its structures as images of their vertices, most probable first.

    Parameters
    ----------
    post : SparseDistribution
    row : int
        Which row of the flattened batch.
    shape : tuple of two ints, optional
        Height and width of the image of a vertex. Default: the shape of the scores, with one dimension as a strip.
    limit : int
        Draw the most probable ones, at most so many; what is left out is said in words.
    axes : sequence of matplotlib Axes, optional
        One a structure, in the order of probability; left over axes are switched off, and ``limit`` falls to their
        number. Default: those of a new figure.

    Returns
    -------
    matplotlib Figure, or SubFigure
        The one the axes belong to.

    Raises
    ------
    ArgumentError
        A ``row``, ``shape``, ``limit`` or ``axes`` that does not fit.
    """
    z, probs = _most_probable_first(post, row)
    height, width = _image_shape(post.structure, shape)
    for name, count in (("limit", limit), ("axes", 1 if axes is None else len(axes))):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ArgumentError(f"{name}: got {count!r}; expected a number of at least 1 of structures to draw")
    shown = min(len(probs), limit, limit if axes is None else len(axes))
    if axes is None:
        axes = _new_axes(shown, height, width)
    images = post.structure.vertex(z[:shown]).reshape(shown, height, width)
    for ax, image, p in zip(axes, images, probs, strict=False):
        _draw_image(ax, image)
        ax.set_title(f"{p:.3f}", fontsize="medium")
    for ax in axes[shown:]:
        ax.set_axis_off()
    if shown < len(probs):
        rest = float(probs[shown:].sum())
        axes[shown - 1].set_xlabel(f"and {len(probs) - shown} more,\n{rest:.3f} in total")
    return axes[0].figure


def _most_probable_first(post: SparseDistribution, row: int) -> tuple[Tensor, Tensor]:
    """The structures z [K, *event] and probabilities [K] of one row, on the host, without padding."""
    rows = post.batch_shape.numel()
    if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < rows:
        raise ArgumentError(f"row: got {row!r}; expected one of the {rows} rows of the flattened batch, counted from 0")
    probs = post.probs.detach().reshape(rows, -1)[row].cpu()
    z = post.structures.detach().reshape(rows, len(probs), *post.event_shape)[row].cpu()
    order = probs.argsort(dim=0, descending=True, stable=True)[: int((probs > 0).sum())]
    return z[order], probs[order]


def _image_shape(structure: Structure, shape: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the image of a vertex."""
    own = torch.Size(structure.shape)
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


def _new_axes(count: int, height: int, width: int) -> list[Axes]:
    """Axes for ``count`` images: strips one below the other, anything else side by side."""
    columns = 1 if width >= STRIP * height else min(count, COLUMNS)
    lines = -(-count // columns)
    across = 6.0 if columns == 1 else 1.5 * columns
    tall = max(across / columns * height / width, 0.2) + 0.4
    figure = pyplot().figure(figsize=(across, lines * tall), layout="constrained")
    return list(figure.subplots(lines, columns, squeeze=False).flat)


def _draw_image(ax: Axes, image: Tensor) -> None:
    """One vertex: dark where a part is on, with a frame, without ticks."""
    ax.imshow(image.to(torch.float64).numpy(), cmap="Blues", vmin=0, vmax=1.25, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
