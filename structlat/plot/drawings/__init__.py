"""How structures of each kind of space are drawn, a family a file."""

from structlat.plot.drawings import combined, graphs, matchings, sequences, strips, trees
from structlat.plot.drawings.base import bare, draw, draw_named, size

__all__ = ["bare", "combined", "draw", "draw_named", "graphs", "matchings", "sequences", "size", "strips", "trees"]
