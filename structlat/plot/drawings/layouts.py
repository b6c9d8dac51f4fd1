"""Where the nodes of a graph go, how far its edges bend around them, and where names have room: without chance."""

from __future__ import annotations

from collections.abc import Sequence

import networkx
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]  # [n, 2], in inches

SWEEPS = 8  # over the layers, each ordering them by their neighbours
BENDS = (0.0, 0.15, -0.15, 0.3, -0.3, 0.45, -0.45)  # of an edge, as matplotlib's arc3 counts them
APART = 0.16  # inches that an edge keeps from nodes that are not its own


def place_nodes(graph: networkx.Graph, width: float, height: float) -> Points:
    """Places of the nodes 0..n - 1 within ``width`` times ``height``: layers if they are directed, else by springs."""
    places = _layered(graph) if graph.is_directed() else _connected_side_by_side(graph)
    low, extent = places.min(0), np.ptp(places, axis=0)
    scale = np.array([width, height]) / np.where(extent > 0, extent, 1)
    if not graph.is_directed():
        scale = np.full(2, scale.min())
    found: Points = (places - low - extent / 2) * np.where(extent > 0, scale, 1)
    return found


def _layered(graph: networkx.DiGraph) -> Points:
    """A layer for the nodes that are as many steps from a beginning, ordered so that few edges cross."""
    layers = [list(layer) for layer in networkx.topological_generations(graph)]
    around = {u: [*graph.predecessors(u), *graph.successors(u)] for u in graph}
    height = {u: i - (len(layer) - 1) / 2 for layer in layers for i, u in enumerate(layer)}
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            layer.sort(key=lambda u: (sum(height[v] for v in around[u]) / max(len(around[u]), 1), u))
            for i, u in enumerate(layer):
                height[u] = i - (len(layer) - 1) / 2
    across = {u: i for i, layer in enumerate(layers) for u in layer}
    return np.array([(across[u], -height[u]) for u in range(len(graph))], np.float64)


def _connected_side_by_side(graph: networkx.Graph) -> Points:
    """Kamada and Kawai's layout of each connected component, the largest at the left."""
    places, left = np.zeros((len(graph), 2)), 0.0
    for nodes in sorted(networkx.connected_components(graph), key=lambda c: (-len(c), min(c))):
        part = graph.subgraph(sorted(nodes))
        own = networkx.kamada_kawai_layout(part, scale=max(len(nodes) - 1, 0) ** 0.5 / 2)
        x = [float(own[u][0]) for u in part]
        for u in part:
            places[u] = left + own[u][0] - min(x), own[u][1]
        left += max(x) - min(x) + 0.7
    return places


def curve(start: Points, end: Points, bend: float) -> Points:
    """Points of the edge that matplotlib draws as ``arc3,rad=bend``: a quadratic Bezier curve."""
    t = np.linspace(0, 1, 41)[:, None]
    middle = (start + end) / 2 + bend * np.array([end[1] - start[1], start[0] - end[0]])
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end


def bend_edges(places: Points, edges: Sequence[tuple[int, int]]) -> list[float]:
    """The least bend of each edge that keeps it apart from the other nodes."""
    bends = []
    for u, v in edges:
        others = np.delete(places, [u, v], axis=0)
        room = [
            min(APART, float(np.linalg.norm(curve(places[u], places[v], bend)[:, None] - others, axis=-1).min()))
            if len(others)
            else APART
            for bend in BENDS
        ]
        bends.append(BENDS[int(np.argmax(room))])
    return bends


def place_names(places: Points, curves: Points, sizes: Points, gap: float) -> Points:
    """The middle of each node's name: beside the node, ``gap`` from it, where least is in the way.

    ``curves`` [m, 2] are points of all edges, ``sizes`` the width and height of each name.
    """
    sides = np.array([(0, -1), (0, 1), (1, 0), (-1, 0), (1, -1), (-1, -1), (1, 1), (-1, 1)])
    taken: list[Points] = []  # middle and half size of the names so far, [4]
    found = []
    for node, size in zip(places, sizes, strict=True):
        half = size / 2
        middles = node + sides * (half + np.where((sides != 0).all(-1), 0.5, 1)[:, None] * gap)
        cost = [
            _inside(curves, middle, half + 0.02)
            + 30 * _inside(places, middle, half + gap / 2)
            + 60 * sum(bool((abs(other[:2] - middle) < other[2:] + half).all()) for other in taken)
            for middle in middles
        ]
        best = middles[int(np.argmin(cost))]
        taken.append(np.concatenate([best, half]))
        found.append(best)
    return np.array(found)


def _inside(points: Points, middle: Points, half: Points) -> int:
    return int((abs(points - middle) < half).all(-1).sum())
