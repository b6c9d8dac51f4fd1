"""Pictures of a support: its structures, each in the way of its space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from structlat.distribution import SparseDistribution
from structlat.errors import ArgumentError
from structlat.plot.backend import lay_out, new_axes
from structlat.plot.drawings import Size, bare, draw_named, size
from structlat.plot.drawings.images import draw_image, image_shape, image_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLUMNS = 6  # structures side by side
PAGE = 9.6  # inches that they take side by side at most, unless a single one takes more
TITLE, REST = 0.25, 0.4  # inches, of a probability and of what is said about the rest


def distribution(
    post: SparseDistribution,
    row: int = 0,
    shape: tuple[int, int] | None = None,
    limit: int = 12,
    axes: Sequence[Axes] | None = None,
    names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> Figure | SubFigure:
    """Draw the support of one row: each structure as ``plot.structure`` does, most probable first.

    Parameters
    ----------
    post : SparseDistribution
    row : int
        Which row of the flattened batch.
    shape : tuple of two ints, optional
        Draw images of the vertices, of this height and width. Default: the drawing of the space; where it has none,
        images in the shape of the scores, with one dimension as a strip.
    limit : int
        Draw the most probable ones, at most so many; what is left out is said in words.
    axes : sequence of matplotlib Axes, optional
        One a structure, in the order of probability; left over axes are switched off, and ``limit`` falls to their
        number. Default: those of a new figure.
    names, labels : sequence of str, optional
        As in ``plot.structure``.

    Returns
    -------
    matplotlib Figure, or SubFigure
        The one the axes belong to.

    Raises
    ------
    ArgumentError
        A ``row``, ``shape``, ``limit``, ``axes``, ``names`` or ``labels`` that does not fit.
    """
    z, probs = _most_probable_first(post, row)
    space = post.structure
    if shape is not None:
        image_shape(space, shape)
        for name, given in (("names", names), ("labels", labels)):
            if given is not None:
                raise ArgumentError(f"{name}: got {given!r} beside a shape; images of vertices have no place for them")
    for name, count in (("limit", limit), ("axes", 1 if axes is None else len(axes))):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ArgumentError(f"{name}: got {count!r}; expected a number of at least 1 of structures to draw")
    shown = min(len(probs), limit, limit if axes is None else len(axes))
    rest = probs[shown:]
    new = axes is None
    if axes is None:
        wanted = size(space, names, labels) if shape is None else Size(*image_size(*shape))
        axes = _new_axes(shown, wanted, len(rest) > 0)
    for ax, p in zip(axes[:shown], probs, strict=False):
        ax.set_title(f"{p:.3f}", fontsize="medium")
    for ax in axes[shown:]:
        ax.set_axis_off()
    if len(rest):
        axes[shown - 1].set_xlabel(f"and {len(rest)} more,\n{float(rest.sum()):.3f} in total")
    if new:
        lay_out(axes[0])
    for ax, one in zip(axes, z[:shown], strict=False):
        if shape is None:
            draw_named(space, one, ax, names=names, labels=labels)
        else:
            bare(ax)
            draw_image(ax, space.vertex(one).reshape(shape))
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


def _new_axes(count: int, wanted: Size, more: bool) -> list[Axes]:
    """Axes of this size for ``count`` structures: as many side by side as fit on a page, in even lines.

    There is room for probabilities, and if there are ``more`` structures for what is said about these.
    """
    width, height = wanted.outer
    width = max(width, 1.2 if more else 0.7)
    lines = -(-count // min(COLUMNS, max(int(PAGE / width), 1)))
    return new_axes(lines, -(-count // lines), width, height + TITLE, REST if more else 0)
