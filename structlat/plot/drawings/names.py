"""Names and colours in a drawing: which there are, what room they take, how they stand below the axes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from structlat.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ON, OFF, INK, FAINT = "#1f5fa8", "#d3d8de", "#333333", "#8a929c"  # what is used, what is not, text, unused text
# Light colours that differ for the colour-blind too and that dark text reads on (Paul Tol's "light" scheme)
LABELS = ("#77aadd", "#eedd88", "#ee8866", "#44bb99", "#ffaabb", "#99ddff", "#bbcc33", "#aaaa00", "#dddddd")
CHARACTER = 0.08  # inches, of small text
LINE = 0.19  # inches, of small text and what separates it
SMALL, SMALLEST = 8.3, 5.0  # points


def texts(name: str, given: Sequence[Hashable] | None, count: int, what: str) -> list[str]:
    """The ``count`` texts that a caller gave as the argument ``name``, one a ``what``; by default their numbers."""
    if given is None:
        return [str(i) for i in range(count)]
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != count:
        raise ArgumentError(f"{name}: got {given!r}; expected a sequence of {count} names, one for each {what}")
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


def font_size(characters: float, room: float, least: float = SMALLEST) -> float | None:
    """Points for so many characters in ``room`` inches, at most those of small text; None if less than ``least``."""
    points = min(SMALL, SMALL * room / (CHARACTER * characters))
    return points if points >= least else None


def shortened(name: str, room: float) -> tuple[str, float]:
    """As much of a name as can be read in ``room`` inches, and in how many points."""
    points = font_size(max(len(name), 1), room)
    if points is not None:
        return name, points
    return name[: int(room / CHARACTER * SMALL / SMALLEST)], SMALLEST


def name_below(ax: Axes, places: Sequence[float], names: Sequence[str], room: float) -> None:
    """Names below their places, each with ``room`` inches: turned where it takes more."""
    points = font_size(longest(names) + 0.5, room, 0.9 * SMALLEST)  # axes may be narrower than they were planned
    ax.set_xticks(places, names, rotation=90 if points is None else 0, fontsize=points or SMALL)


def height_below(names: Sequence[str] | None, room: float) -> float:
    """Inches that ``name_below`` takes."""
    if names is None:
        return 0.0
    return LINE if font_size(longest(names) + 0.5, room) is not None else CHARACTER * longest(names) + 0.05
