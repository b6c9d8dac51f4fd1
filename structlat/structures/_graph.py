"""Spaces built from a graph: its nodes and edges by name, for people, and by number, for oracles."""

from __future__ import annotations

from collections.abc import Hashable

import networkx
import numpy as np
import numpy.typing as npt

from structlat.errors import ArgumentError

SHOWN = 4  # names in a repr


class GraphParts:
    """The edges of a NetworkX graph as parts, in the order of ``graph.edges``. Later changes of the graph are not seen.

    Parameters
    ----------
    graph : networkx.Graph, or networkx.DiGraph where ``directed``
        With at least one edge, no parallel edges, and none from a node to itself.
    directed : bool
        Which of the two is expected.

    Attributes
    ----------
    nodes : list of node names, in the order of ``graph.nodes``
    edges : list of pairs of node names, in the order of ``graph.edges``
    index : int64 array [E, 2], the pairs as places in ``nodes``
    directed : bool

    Raises
    ------
    ArgumentError
        Any other graph, or what is none.
    """

    def __init__(self, graph: networkx.Graph, directed: bool) -> None:
        expected = f"expected a networkx.{'DiGraph' if directed else 'Graph'}"
        if not isinstance(graph, networkx.Graph) or graph.is_multigraph() or graph.is_directed() != directed:
            came = f"a {type(graph).__name__}" if isinstance(graph, networkx.Graph) else repr(graph)
            raise ArgumentError(f"graph: got {came}; {expected}")
        self.directed = directed
        self.nodes: list[Hashable] = list(graph.nodes)
        self.edges: list[tuple[Hashable, Hashable]] = list(graph.edges)
        self._place = {node: i for i, node in enumerate(self.nodes)}
        if not self.edges:
            raise ArgumentError(f"graph: got {self!r}; {expected} with at least one edge")
        for u, v in self.edges:
            if u == v:
                raise ArgumentError(f"graph: has an edge from {u!r} to itself, which no structure uses; {expected}")
        pairs = [(self._place[u], self._place[v]) for u, v in self.edges]
        self.index: npt.NDArray[np.int64] = np.array(pairs, np.int64)

    def node(self, name: str, value: Hashable) -> int:
        """The place of node ``value``, given by a caller as the argument ``name``."""
        try:
            return self._place[value]
        except (KeyError, TypeError):
            raise ArgumentError(f"{name}: got {value!r}; expected a node of {self!r}") from None

    def __repr__(self) -> str:
        """How a space built from the graph names it: sizes, and the first of the names."""
        names = ", ".join(map(repr, self.nodes[:SHOWN])) + (", ..." if len(self.nodes) > SHOWN else "")
        return f"<{len(self.nodes)} nodes: {names}; {len(self.edges)} edges>"
