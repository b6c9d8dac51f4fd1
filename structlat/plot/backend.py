"""matplotlib, where it is installed: it is imported when a picture is drawn, and the library does without it."""

from __future__ import annotations

from typing import Any


def pyplot() -> Any:
    """``matplotlib.pyplot``, or an ImportError that says what to install."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("structlat.plot needs matplotlib: pip install structlat[examples]") from error
    return pyplot
