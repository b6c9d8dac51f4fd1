"""GeneralMatching: edges of any graph of which no two share a node."""

from __future__ import annotations

import networkx
import torch
from torch import Tensor

from oracles import general_matching as oracle
from structlat.errors import ArgumentError
from structlat.structure import ENUMERATION_LIMIT, Structure
from structlat.structures._graph import GraphParts
from structlat.structures._host import check_event, is_binary, to_numpy, to_torch


class GeneralMatching(Structure):
    """Matchings of an undirected graph: scores [*, E]; z [E], 1. on the edges of the matching.

    Parameters
    ----------
    graph : networkx.Graph
        With no edge from a node to itself. Later changes of it are not seen.
    perfect : bool
        Every node is covered; the graph must have such a matching. Otherwise any matching, the empty one included.

    Attributes
    ----------
    edges : list of pairs of nodes, in the order of ``graph.edges``: that of the scores
    """

    intractable = "counting matchings of a general graph is #P-hard (Valiant 1979)"

    def __init__(self, graph: networkx.Graph, perfect: bool = False) -> None:
        self._graph_parts = GraphParts(graph, directed=False)
        self.edges = self._graph_parts.edges
        self.nodes = len(self._graph_parts.nodes)
        self.perfect = bool(perfect)
        self.antichain = self.perfect
        self.shape = torch.Size([len(self.edges)])
        if self.perfect:
            largest = networkx.max_weight_matching(networkx.Graph(self.edges), maxcardinality=True)
            covered = {node for pair in largest for node in pair}
            for node in self._graph_parts.nodes:
                if node not in covered:
                    raise ArgumentError(
                        f"graph: has no perfect matching (a largest one leaves out {node!r}); expected one that has, "
                        "or perfect=False"
                    )

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The best matching (Edmonds' blossom algorithm)."""
        z = oracle.argmax(to_numpy(scores), self._graph_parts.index, self.nodes, self.perfect)
        return to_torch(z, scores, scores.dtype)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best matchings, by Lawler's partition."""
        z, valid = oracle.topk(to_numpy(scores), self._graph_parts.index, self.nodes, k, self.perfect)
        return to_torch(z, scores, scores.dtype), to_torch(valid, scores)

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every matching, [|Z|, E]."""
        z = oracle.enumerate(self._graph_parts.index, self.nodes, self.perfect, limit)
        if len(z) > limit:
            raise ArgumentError(
                f"limit: {self!r} has more than {limit} structures; use sparsemap or topk_sparsemax, which do not "
                "enumerate, or enumerate(limit=...) where so many are wanted"
            )
        return torch.from_numpy(z).to(torch.float64)

    def cardinality(self) -> int:
        """How many matchings there are, counted node by node: exponential time in how tangled the graph is."""
        return oracle.cardinality(self._graph_parts.index, self.nodes, self.perfect)

    def contains(self, z: Tensor) -> Tensor:
        """Whether z is a 0/1 vector that covers no node twice (and, if ``perfect``, every node)."""
        check_event(self, z)
        covered = torch.zeros(*z.shape[:-1], self.nodes, dtype=z.dtype, device=z.device)
        for ends in torch.from_numpy(self._graph_parts.index).to(z.device).T:
            covered = covered.index_add(-1, ends, z)
        fits = covered == 1 if self.perfect else covered <= 1
        return fits.all(-1) & is_binary(z)

    def __repr__(self) -> str:
        return f"GeneralMatching({self._graph_parts!r}, perfect={self.perfect})"
