"""The picture of one structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from structlat.errors import ArgumentError
from structlat.plot.backend import lay_out, new_axes
from structlat.plot.drawings import bare, draw_named, has_drawing, size
from structlat.plot.drawings.images import draw_image, image_size
from structlat.structure import Structure
from structlat.structures._host import check_event

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


def structure(
    z: Tensor,
    space: Structure | None = None,
    ax: Axes | None = None,
    names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> Figure | SubFigure:
    """Draw one structure in the way of its space: a tree as a tree, a path as a path.

    Parameters
    ----------
    z : Tensor [*event]
        The structure.
    space : Structure, optional
        What z is an element of. Without it, or where the space has no drawing of its own (``plot.draw`` is where
        drawings are registered), z is drawn as an image, of its vertex if there is a space.
    ax : matplotlib Axes, optional
        Where to draw. Default: those of a new figure, as large as the drawing needs.
    names : sequence of str, optional
        Of the words of a dependency tree, the leaves of a binary tree, the positions of a chain or a segmentation, the
        bits, items or labels of a strip, the rows of a matching or an alignment. A graph brings those of its nodes.
    labels : sequence of str, optional
        Of what is given to these: the labels of a chain, a segmentation or a binary tree, the columns of a matching or
        an alignment.

    Returns
    -------
    matplotlib Figure, or SubFigure
        The one the axes belong to.

    Raises
    ------
    ArgumentError
        z of another shape, or no element of the space; names of a wrong number, or for a drawing without them.
    """
    if space is None:
        return _picture(z, ax, names, labels)
    if not isinstance(space, Structure):
        raise ArgumentError(f"space: got {space!r}; expected a structlat.Structure")
    check_event(space, z)
    if z.ndim != len(space.event_shape):
        raise ArgumentError(
            f"z: got shape {tuple(z.shape)}; expected one structure {tuple(space.event_shape)} of {space!r}, without "
            "batch dimensions (plot.distribution draws several)"
        )
    if not has_drawing(space) and len(space.shape) > 2:
        raise ArgumentError(
            f"space: got {space!r}, whose vertices {tuple(space.shape)} are no images; expected one with a drawing "
            "registered by plot.draw.register"
        )
    z = z.detach().cpu()
    if not bool(space.contains(z)):
        raise ArgumentError(f"z: got {z.tolist()}; expected a structure of {space!r}")
    if ax is None:
        ax = new_axes(1, 1, *size(space, names, labels).outer)[0]
        lay_out(ax)
    draw_named(space, z, ax, names=names, labels=labels)
    return ax.figure


def _picture(
    z: Tensor, ax: Axes | None, names: Sequence[str] | None, labels: Sequence[str] | None
) -> Figure | SubFigure:
    """An image of z, of which nothing else is known."""
    if not isinstance(z, Tensor) or z.ndim > 2 or not z.numel():
        came = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ArgumentError(f"z: got {came}; expected a tensor of at most two dimensions, or its space with it")
    for name, given in (("names", names), ("labels", labels)):
        if given is not None:
            raise ArgumentError(f"{name}: got {given!r} without a space; expected the space of z with it")
    image = z.detach().cpu().to(torch.float64).reshape((1, 1, *z.shape)[-2:])
    if ax is None:
        ax = new_axes(1, 1, *image_size(*image.shape))[0]
    bare(ax)
    draw_image(ax, image)
    return ax.figure
