"""Pictures. Each function draws one on the axes that it is given, or makes a figure, and returns the figure.

``draw`` is where a space of your own gets a drawing of its own.
"""

from structlat.plot.drawings import draw
from structlat.plot.single import structure
from structlat.plot.supports import distribution
from structlat.plot.traces import trace

__all__ = ["distribution", "draw", "structure", "trace"]
