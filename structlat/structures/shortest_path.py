"""ShortestPath: the path of highest score through a directed acyclic graph."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import networkx
import torch

from structlat.errors import ArgumentError
from structlat.structures._graph import GraphParts
from structlat.structures.dynamic_program import DynamicProgram


class ShortestPath(DynamicProgram):
    """Paths from one node to another of a directed acyclic graph: scores [*, E]; z [E], 1. on the path's edges.

    Scores are maximised, as everywhere: negate lengths.

    Parameters
    ----------
    graph : networkx.DiGraph
        Without cycles. Later changes of it are not seen.
    source, target : nodes of the graph, which a path connects

    Attributes
    ----------
    edges : list of pairs of nodes, in the order of ``graph.edges``: that of the scores
    """

    antichain = True

    def __init__(self, graph: networkx.DiGraph, source: Hashable, target: Hashable) -> None:
        self._graph_parts = GraphParts(graph, directed=True)
        self.source, self.target = source, target
        self.edges = self._graph_parts.edges
        self._ends = self._graph_parts.node("source", source), self._graph_parts.node("target", target)
        if source == target:
            raise ArgumentError(f"target: got {target!r}, the source itself; expected another node")
        try:
            order = list(networkx.topological_sort(graph))
        except networkx.NetworkXUnfeasible:
            cycle = " -> ".join(repr(u) for u, _ in networkx.find_cycle(graph))
            raise ArgumentError(f"graph: has the cycle {cycle}; expected a directed acyclic graph") from None
        if not networkx.has_path(graph, source, target):
            raise ArgumentError(f"target: no path leads from {source!r} to {target!r} in {self._graph_parts!r}")
        self._order = [self._graph_parts.node("graph", u) for u in order]
        self.shape = torch.Size([len(self.edges)])

    def hyperedges(self) -> Iterable[tuple[Any, ...]]:
        """The graph itself: all paths from the source up to each node."""
        source, target = self._ends
        into: dict[int, list[tuple[int, int]]] = {}
        for part, (u, v) in enumerate(self._graph_parts.index.tolist()):
            into.setdefault(v, []).append((u, part))
        built = {source}
        yield source, [], []
        for v in self._order:
            if v == source:
                continue
            for u, part in into.get(v, []):
                if u in built:
                    yield v, [u], [part]
                    built.add(v)
            if v == target:
                return

    def __repr__(self) -> str:
        return f"ShortestPath({self._graph_parts!r}, {self.source!r} to {self.target!r})"
