"""Pictures. Each function draws one on the axes that it is given, or makes a figure, and returns the figure."""

from structlat.plot.supports import distribution
from structlat.plot.traces import trace

__all__ = ["distribution", "trace"]
