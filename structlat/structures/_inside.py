"""The inside algorithm in differentiable torch: a hypergraph's log-partition, layer by layer, over a batch.

Every layer is a handful of operations on tensors whose last dimension is the batch: a node's values for all rows lie
side by side. No branch on values: it can be differentiated twice, transformed and compiled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oracles.hypergraph import Hypergraph


class Inside:
    """A hypergraph's layers as tensors."""

    def __init__(self, graph: Hypergraph, parts: int) -> None:
        self.parts = parts
        table = torch.from_numpy(graph.part_table)
        # where an edge's scores, and extra scores, come from; past the end: a zero
        missing = graph.parts - parts
        own = torch.where(table < parts, table, parts)
        other = torch.where((table >= parts) & (table < graph.parts), table - parts, missing)
        self.own, self.other = _compact(own, parts), _compact(other, missing)
        self.layers = [(layer, torch.from_numpy(layer.tails)) for layer in graph.layers]

    def log_partition(self, scores: Tensor, extra: Tensor | None) -> Tensor:
        """The log-sum-exp over all derivations, [B], for scores [P, B] and extra [Q, B or 1]."""
        weights = _gathered(scores, self.own)
        if extra is not None:
            weights = weights + _gathered(extra, self.other)
        values: list[Tensor] = []
        zero = torch.zeros_like(scores[:1]) if len(scores) else torch.zeros_like(weights[:1])
        for layer, tails in self.layers:
            x = weights[layer.edges[0] : layer.edges[1]]
            if layer.sources:
                below = torch.cat([*(values[i] for i in layer.sources), zero])
                for at, used in zip(tails.to(x.device), layer.used, strict=True):
                    if used:
                        x = x + below.index_select(0, at)
            count = layer.nodes[1] - layer.nodes[0]
            values.append(logsumexp(x.reshape(count, len(x) // count, x.shape[-1]), 1))
        return values[-1].squeeze(0)


def logsumexp(x: Tensor, dim: int) -> Tensor:
    """torch.logsumexp, with a derivative of 0 instead of NaN where all is -inf; twice differentiable."""
    if x.shape[dim] == 1:
        return x.squeeze(dim)
    top = x.detach().amax(dim, keepdim=True)
    top = torch.where(torch.isneginf(top), 0, top)
    total = (x - top).exp().sum(dim)
    some = total > 0
    return torch.where(some, torch.where(some, total, 1).log(), -torch.inf) + top.squeeze(dim)


def _gathered(x: Tensor, table: Tensor) -> Tensor:
    """Sums over m of x [P, B] at ``table`` [m, E], P standing for zero: [E, B]."""
    x = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
    first, *others = table.to(x.device)
    total = x.index_select(0, first)
    for index in others:
        total = total + x.index_select(0, index)
    return total


def _compact(table: Tensor, none: int) -> Tensor:
    """The table [E, m] of part numbers with those that name a part first, [m', E], m' as small as it can be.

    At least one: what uses no part at all keeps the graph of the scores.
    """
    ordered = table.sort(dim=1).values  # ``none`` is the largest number
    width = int((ordered < none).sum(1).max()) if ordered.numel() else 0
    missing = torch.full((len(table), max(1 - width, 0)), none)
    return torch.cat([ordered[:, :width], missing], 1).T.contiguous()
