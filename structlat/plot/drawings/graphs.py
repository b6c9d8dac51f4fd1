"""Edges of a graph: all of them faint, those of the structure thick, and the names of the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import networkx
import numpy as np
from torch import Tensor

from structlat.plot.drawings.base import PAGE, Size, draw, size
from structlat.plot.drawings.layouts import Points, bend_edges, curve, place_names, place_nodes
from structlat.plot.drawings.names import CHARACTER, FAINT, INK, OFF, ON, SMALL, longest
from structlat.structures._graph import GraphParts
from structlat.structures.general_matching import GeneralMatching
from structlat.structures.shortest_path import ShortestPath
from structlat.structures.spanning_tree import SpanningTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHORT = 2  # names with so many characters at most stand in their nodes
RADIUS = 0.12  # inches, of such a node
GAP = 0.08  # inches from the middle of any other node to its name
TALLEST = 4.5  # inches
GraphSpace = SpanningTree | GeneralMatching | ShortestPath


class _Layout(NamedTuple):
    """In inches: places of the nodes, how far edges bend, at which sides names stand, and the corners of it all."""

    places: Points
    bends: list[float]
    sides: Points
    low: Points
    high: Points


_LAYOUTS: WeakKeyDictionary[GraphSpace, _Layout] = WeakKeyDictionary()  # a support is many structures of one graph


@draw.register(SpanningTree)
@draw.register(GeneralMatching)
@draw.register(ShortestPath)
def draw_edges(space: GraphSpace, z: Tensor, ax: Axes) -> None:
    """The graph under the names of its nodes, the structure's edges and their nodes dark.

    The layout is that of the graph alone: the same for every structure, and every time.
    """
    from matplotlib.patches import FancyArrowPatch

    parts = space._graph_parts
    layout = _layout(space)
    on = (z > 0).tolist()
    inside = _inside_nodes(parts)
    scale = _scale(layout, ax)
    radius = (72 * RADIUS if inside else 3) * scale  # points
    for (u, v), bend, is_on in zip(parts.index.tolist(), layout.bends, on, strict=True):
        (x, y), (other_x, other_y) = layout.places[[u, v]].tolist()
        edge = FancyArrowPatch(
            (x, y),
            (other_x, other_y),
            arrowstyle="-|>" if parts.directed else "-",
            connectionstyle=f"arc3,rad={bend}",
            color=ON if is_on else OFF,
            linewidth=2.4 * scale if is_on else scale,
            mutation_scale=(11 if is_on else 8) * scale,
            shrinkA=radius,
            shrinkB=radius,
            clip_on=False,
            zorder=2 if is_on else 1,
        )
        ax.add_patch(edge)
    used = set(parts.index[on].ravel().tolist())
    for i, ((x, y), side) in enumerate(zip(layout.places.tolist(), layout.sides.tolist(), strict=True)):
        color = ON if i in used else FAINT
        ax.plot(x, y, "o", color=color, markersize=2 * radius, clip_on=False, zorder=3)
        _draw_name(ax, str(parts.nodes[i]), (x, y), None if inside else side, SMALL * scale)
    ax.set(xlim=(layout.low[0], layout.high[0]), ylim=(layout.low[1], layout.high[1]))


@size.register(SpanningTree)
@size.register(GeneralMatching)
@size.register(ShortestPath)
def graph_size(space: GraphSpace, names: Sequence[str] | None, labels: Sequence[str] | None) -> Size:
    """That of the layout, with its names."""
    layout = _layout(space)
    across, tall = (layout.high - layout.low).tolist()
    return Size(across, tall)


def _draw_name(ax: Axes, name: str, at: tuple[float, float], side: list[int] | None, points: float) -> None:
    """The name of a node, in it or at a side of it."""
    if side is None:
        ax.text(*at, name, ha="center", va="center", fontsize=points, color="white", zorder=4)
        return
    from matplotlib.patheffects import withStroke

    across, upwards = side
    offset = 72 * GAP * (0.7 if across and upwards else 1)
    ax.annotate(
        name,
        at,
        (offset * across, offset * upwards),
        textcoords="offset points",
        ha=("center", "left", "right")[across],
        va=("center", "bottom", "top")[upwards],
        fontsize=points,
        color=INK,
        zorder=4,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],  # edges behind it are kept off
    )


def _scale(layout: _Layout, ax: Axes) -> float:
    """How much smaller nodes and names are on axes that are smaller than the layout."""
    box = ax.get_window_extent()
    wanted = (layout.high - layout.low) * ax.figure.dpi
    return float(np.clip(min(1.1 * box.width / wanted[0], 1.1 * box.height / wanted[1]), 0.5, 1))


def _layout(space: GraphSpace) -> _Layout:
    if space in _LAYOUTS:
        return _LAYOUTS[space]
    parts = space._graph_parts
    graph = networkx.DiGraph() if parts.directed else networkx.Graph()
    graph.add_nodes_from(range(len(parts.nodes)))
    edges = parts.index.tolist()
    graph.add_edges_from(edges)
    name = 0 if _inside_nodes(parts) else CHARACTER * longest(parts.nodes)
    across = 0.5 + 0.6 * name if parts.directed else 0.7 + 0.2 * name
    places = place_nodes(graph, across, 0.6, (PAGE, TALLEST))
    bends = bend_edges(places, edges)
    lines = np.concatenate([curve(places[u], places[v], bend) for (u, v), bend in zip(edges, bends, strict=True)])
    names = np.array([(CHARACTER * len(str(node)), 0.14) for node in parts.nodes])
    sides, boxes = place_names(places, lines, names, GAP)
    radius = RADIUS if _inside_nodes(parts) else 0.05
    corners = [places - radius, places + radius, lines] + ([] if _inside_nodes(parts) else [*boxes])
    everything = np.concatenate(corners)
    low, high = everything.min(0) - 0.02, everything.max(0) + 0.02
    layout = _LAYOUTS[space] = _Layout(places, bends, sides, low, high)
    return layout


def _inside_nodes(parts: GraphParts) -> bool:
    return longest(parts.nodes) <= SHORT
