"""SpanningTree: edges that connect all nodes of a graph without a cycle."""

from __future__ import annotations

import networkx
import torch
from torch import Tensor

from oracles import spanning
from oracles.compiled import Compiled
from structlat.errors import ArgumentError
from structlat.structure import ENUMERATION_LIMIT
from structlat.structures._arborescence import log_trees
from structlat.structures._graph import GraphParts
from structlat.structures._host import check_event, is_binary, refuse_past, to_numpy, to_torch
from structlat.tractable import Tractable


class SpanningTree(Tractable):
    """Spanning trees of an undirected graph: scores [*, E]; z [E], 1. on the tree's edges.

    Parameters
    ----------
    graph : networkx.Graph
        Connected, with no edge from a node to itself. Later changes of it are not seen.

    Attributes
    ----------
    edges : list of pairs of nodes, in the order of ``graph.edges``: that of the scores
    """

    antichain = True

    def __init__(self, graph: networkx.Graph) -> None:
        self._graph_parts = GraphParts(graph, directed=False)
        self.edges = self._graph_parts.edges
        self.nodes = len(self._graph_parts.nodes)
        reached = networkx.node_connected_component(graph, self._graph_parts.nodes[0])
        for node in self._graph_parts.nodes:
            if node not in reached:
                raise ArgumentError(
                    f"graph: no path leads from {self._graph_parts.nodes[0]!r} to {node!r}; expected a connected graph"
                )
        self.shape = torch.Size([len(self.edges)])
        # a tree is one whose nodes all lead to the first one: the edge from node m + 1 to node h, past the end for none
        self._table = torch.from_numpy(spanning.heads_table(self._graph_parts.index, self.nodes))

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The best tree (Kruskal)."""
        return to_torch(spanning.argmax(to_numpy(scores), self._graph_parts.index, self.nodes), scores, scores.dtype)

    def compiled(self) -> Compiled | None:
        """The oracle as C functions."""
        return spanning.compiled(self._graph_parts.index, self.nodes)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best trees, by exchanging edges (Gabow 1977)."""
        z, valid = spanning.topk(to_numpy(scores), self._graph_parts.index, self.nodes, k)
        return to_torch(z, scores, scores.dtype), to_torch(valid, scores)

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every spanning tree, [|Z|, E]."""
        refuse_past(limit, self.cardinality(), repr(self))
        return torch.from_numpy(spanning.enumerate(self._graph_parts.index, self.nodes)).to(torch.float64)

    def cardinality(self) -> int:
        """How many spanning trees there are, by the matrix-tree theorem in whole numbers."""
        return spanning.cardinality(self._graph_parts.index, self.nodes)

    def contains(self, z: Tensor) -> Tensor:
        """Whether z is a 0/1 vector whose edges connect all nodes without a cycle."""
        check_event(self, z)
        on = (z == 1).reshape(-1, len(self.edges)).cpu().numpy()
        found = spanning.contains(on, self._graph_parts.index, self.nodes)
        return to_torch(found, z).reshape(z.shape[:-1]) & is_binary(z)

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        none = torch.full_like(scores[:, :1], -torch.inf)
        table = self._table.to(scores.device)
        directed = torch.cat([scores, none], 1).index_select(1, table.flatten())
        return log_trees(directed.reshape(-1, *table.shape))

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        device = scores.device if generator is None else generator.device
        size = (count, len(scores), self.nodes - 1)
        uniform = torch.rand(size, generator=generator, device=device, dtype=torch.float64)
        z = spanning.sample(to_numpy(scores), self._graph_parts.index, self.nodes, uniform.cpu().numpy())
        return to_torch(z, scores, scores.dtype)

    def __repr__(self) -> str:
        return f"SpanningTree({self._graph_parts!r})"
