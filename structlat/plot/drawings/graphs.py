"""Edges of a graph: all of them faint, those of the structure thick, and the names of the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import networkx
import numpy as np
from torch import Tensor

from structlat.plot.drawings.base import CHARACTER, INK, OFF, ON, draw, longest, size
from structlat.plot.drawings.layouts import Points, bend_edges, curve, place_names, place_nodes
from structlat.structures._graph import GraphParts
from structlat.structures.general_matching import GeneralMatching
from structlat.structures.shortest_path import ShortestPath
from structlat.structures.spanning_tree import SpanningTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHORT = 3  # names with so many characters at most stand in their nodes
GAP = 0.09  # inches from the middle of a dot to its name
GraphSpace = SpanningTree | GeneralMatching | ShortestPath


@draw.register(SpanningTree)
@draw.register(GeneralMatching)
@draw.register(ShortestPath)
def draw_edges(space: GraphSpace, z: Tensor, ax: Axes) -> None:
    """The graph under the names of its nodes, the structure's edges and their nodes dark.

    The layout is that of the graph alone: the same for every structure, and every time.
    """
    from matplotlib.patches import FancyArrowPatch

    parts = parts_of(space)
    layout = _layout(space)
    on = (z > 0).tolist()
    used = {node for edge, is_on in zip(parts.index.tolist(), on, strict=True) if is_on for node in edge}
    inside = longest(parts.nodes) <= SHORT
    for (u, v), bend, is_on in zip(parts.index.tolist(), layout.bends, on, strict=True):
        ax.add_patch(
            FancyArrowPatch(
                tuple(layout.places[u]),
                tuple(layout.places[v]),
                arrowstyle="-|>" if parts.directed else "-",
                connectionstyle=f"arc3,rad={bend}",
                color=ON if is_on else OFF,
                linewidth=2.4 if is_on else 1.0,
                mutation_scale=11 if is_on else 8,
                shrinkA=9 if inside else 4,
                shrinkB=9 if inside else 4,
                zorder=2 if is_on else 1,
            )
        )
    for i, (node, place, at) in enumerate(zip(parts.nodes, layout.places, layout.names, strict=True)):
        color = ON if i in used else "#9aa3ad"
        ax.plot(*place, "o", color=color, markersize=17 if inside else 6, zorder=3, clip_on=False)
        (x, y), ink = (place, "white") if inside else (at, INK)
        ax.text(x, y, str(node), ha="center", va="center", fontsize="small", color=ink, zorder=4)
    (left, bottom), (right, top) = layout.places.min(0), layout.places.max(0)
    margin = 0.16 if inside else 0.08
    ax.set(xlim=(left - margin, right + margin), ylim=(bottom - margin, top + margin))
    if not parts.directed:
        ax.set_aspect("equal")


@size.register(SpanningTree)
@size.register(GeneralMatching)
@size.register(ShortestPath)
def graph_size(space: GraphSpace, names: Sequence[str] | None, labels: Sequence[str] | None) -> tuple[float, float]:
    """Room for nodes and names; a directed graph in layers is wider than it is high."""
    parts = parts_of(space)
    name = CHARACTER * longest(parts.nodes)
    if parts.directed:
        layers = list(networkx.topological_generations(_numbered(parts)))
        tallest = max(map(len, layers))
        return min(0.3 + (0.45 + 0.7 * name) * len(layers), 9.0), min(0.4 + 0.45 * tallest, 4.0)
    side = 1.1 + 0.12 * len(parts.nodes)
    return min(side + name, 5.0), min(side, 4.0)


def parts_of(space: GraphSpace) -> GraphParts:
    """The graph that a space was built from, whatever it calls it."""
    return next(x for x in vars(space).values() if isinstance(x, GraphParts))


class _Layout(NamedTuple):
    places: Points
    bends: list[float]
    names: Points


_KNOWN: WeakKeyDictionary[GraphSpace, _Layout] = WeakKeyDictionary()  # a support is many structures of one graph


def _layout(space: GraphSpace) -> _Layout:
    if space in _KNOWN:
        return _KNOWN[space]
    parts = parts_of(space)
    across, tall = graph_size(space, None, None)
    places = place_nodes(_numbered(parts), across - 0.4, tall - 0.4)
    edges = parts.index.tolist()
    bends = bend_edges(places, edges)
    lines = [curve(places[u], places[v], bend) for (u, v), bend in zip(edges, bends, strict=True)]
    sizes = np.array([(0.9 * CHARACTER * len(str(node)), 0.13) for node in parts.nodes])
    layout = _KNOWN[space] = _Layout(places, bends, place_names(places, np.concatenate(lines), sizes, GAP))
    return layout


def _numbered(parts: GraphParts) -> networkx.Graph:
    """The graph with numbers for names."""
    graph = networkx.DiGraph() if parts.directed else networkx.Graph()
    graph.add_nodes_from(range(len(parts.nodes)))
    graph.add_edges_from(parts.index.tolist())
    return graph
