"""How structures of each kind of space are drawn, a family a file: importing one registers its drawings."""

from structlat.plot.drawings import alignments, combined, dependencies, graphs, matchings, sequences, strips, trees
from structlat.plot.drawings.base import Size, bare, draw, draw_named, has_drawing, size

__all__ = [
    "Size",
    "alignments",
    "bare",
    "combined",
    "dependencies",
    "draw",
    "draw_named",
    "graphs",
    "has_drawing",
    "matchings",
    "sequences",
    "size",
    "strips",
    "trees",
]
