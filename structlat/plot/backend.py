"""matplotlib, where it is installed: it is imported when a picture is drawn, and the library does without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BETWEEN = 0.12  # inches


def pyplot() -> Any:
    """``matplotlib.pyplot``, or an ImportError that says what to install."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("structlat.plot needs matplotlib: pip install structlat[examples]") from error
    return pyplot


def new_axes(lines: int, columns: int, width: float, height: float, below: float = 0.0) -> list[Axes]:
    """Axes of a new figure, line by line, each with so many inches for itself, its names and its title.

    ``below`` are inches for what is written below the last line.
    """
    size = (columns * (width + BETWEEN), lines * (height + BETWEEN) + below)
    axes: list[Axes] = list(
        pyplot().figure(figsize=size, layout="constrained").subplots(lines, columns, squeeze=False).flat
    )
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    return axes


def lay_out(ax: Axes) -> None:
    """Give the axes of a new figure their places now, so that a drawing sees how large they are."""
    figure: Any = ax.figure
    figure.get_layout_engine().execute(figure)
