"""Where the nodes of a graph go, how far its edges bend around them, and where names have room: without chance."""

from __future__ import annotations

from collections.abc import Sequence

import networkx
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]  # [n, 2], in inches

MANY = 50  # nodes, from which on Kamada and Kawai's layout takes seconds
SWEEPS = 8  # over the layers, each ordering them by their neighbours
BENDS = (0.0, 0.12, -0.12, 0.25, -0.25)  # of an edge, as matplotlib's arc3 counts them
APART = 0.16  # inches that an edge keeps from nodes that are not its own
SIDES = np.array([(0, -1), (0, 1), (1, 0), (-1, 0), (1, -1), (-1, -1), (1, 1), (-1, 1)])  # of a node, for its name


def place_nodes(graph: networkx.Graph, across: float, upwards: float, most: tuple[float, float]) -> Points:
    """Places of the nodes 0..n - 1, in layers if they are directed, else by springs.

    Layers are ``across`` apart, and nodes in them ``upwards``; springs leave about ``across`` between neighbours. All
    of it takes at ``most`` so much room.
    """
    if graph.is_directed():
        places = _layered(graph) * (across, upwards)
        shrunk: float | Points = np.minimum(1, most / np.maximum(np.ptp(places, axis=0), 1e-9))
    else:
        places = _connected_side_by_side(graph)
        apart = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag(np.full(len(places), np.inf))
        places = places * (across / np.median(apart.min(1)))
        shrunk = min(1, float((most / np.maximum(np.ptp(places, axis=0), 1e-9)).min()))
    return np.asarray(places * shrunk)


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
    """Each connected component by Kamada and Kawai's layout, a large one by a faster one; the largest at the left."""
    places, left = np.zeros((len(graph), 2)), 0.0
    for nodes in sorted(networkx.connected_components(graph), key=lambda c: (-len(c), min(c))):
        part = graph.subgraph(sorted(nodes))
        scale = (len(nodes) - 1) ** 0.5 / 2
        if len(nodes) <= MANY:
            own = networkx.kamada_kawai_layout(part, scale=scale)
        else:
            own = networkx.spring_layout(part, scale=scale, iterations=200, seed=0)
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


def place_names(places: Points, curves: Points, sizes: Points, gap: float) -> tuple[Points, Points]:
    """On which side of each node its name stands, ``gap`` from it: where least is in the way; and the boxes [n, 2, 2].

    ``curves`` [m, 2] are points of all edges, ``sizes`` the width and height of each name. A side is -1, 0 or 1 across
    and upwards, a box its lower left and upper right corners.
    """
    boxes: list[Points] = []
    sides = []
    for node, size in zip(places, sizes, strict=True):
        middles = node + SIDES * (size + gap * np.where(SIDES.all(-1, keepdims=True), 1.4, 2)) / 2
        costs = []
        for middle in middles:
            low, high = middle - size / 2, middle + size / 2
            covered = sum(bool(((box[0] < high) & (low < box[1])).all()) for box in boxes)
            costs.append(
                _inside(curves, low - 0.03, high + 0.03)
                + 30 * _inside(places, low - gap / 2, high + gap / 2)
                + 60 * covered
            )
        best = int(np.argmin(costs))
        sides.append(SIDES[best])
        boxes.append(np.stack([middles[best] - size / 2, middles[best] + size / 2]))
    return np.stack(sides), np.stack(boxes)


def _inside(points: Points, low: Points, high: Points) -> int:
    return int(((low < points) & (points < high)).all(-1).sum())
