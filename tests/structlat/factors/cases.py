"""Graphs small enough to list every assignment, and the judges of what is said about them."""

import itertools

import numpy as np
import torch
from scipy.optimize import nnls

import structlat as sl
from structlat.factors import FactorGraph
from structlat.structure import Structure
from structlat.structures.logic import AtMostOne, Or, Pair, Xor
from tests.judge import _solve, vertices_and_offsets


class Assignments(Structure):
    """Every assignment of a graph's variables that satisfies all factors, as a space of its own: the true polytope."""

    def __init__(self, graph):
        self.graph = graph
        self.shape = torch.Size([graph.variables])
        self.symmetric = graph.symmetric
        self.extra_shapes = graph.extra_shapes
        self.known = []
        for factor in graph.factors:
            every = factor.structure.enumerate()
            a = factor.structure.vertex(every).reshape(len(every), -1)
            self.known.append({tuple(v.tolist()): z for v, z in zip(a, every, strict=True)})
        bits = itertools.product([0.0, 1.0], repeat=graph.variables)
        self.every = torch.tensor([x for x in bits if self._structures(x) is not None], dtype=torch.float64)
        self.every = self.every.reshape(-1, graph.variables)

    def _structures(self, x):
        """The structure of each factor (of its lead, one after the other), or None."""
        out = []
        for factor, known in zip(self.graph.factors, self.known, strict=True):
            places = factor.variables.reshape(factor.lead.numel(), -1).tolist()
            out.append([known.get(tuple(x[i] for i in place)) for place in places])
        return None if any(z is None for zs in out for z in zs) else out

    def argmax(self, scores, *extra):
        best = self.score(self.every, scores.unsqueeze(1), *(x.unsqueeze(1) for x in extra)).argmax(-1)
        return self.every[best]

    def enumerate(self, limit=None):
        return self.every

    def score(self, z, scores, *extra):
        total = super().score(z, scores)
        if not extra:
            return total
        flat, own = z.reshape(-1, self.graph.variables), iter(extra)
        chosen = [self._structures(x) for x in flat.tolist()]
        for i, factor in enumerate(self.graph.factors):
            given = [next(own) for _ in factor.extra_shapes]
            if not given:
                continue
            zs = torch.stack([torch.stack(c[i]) for c in chosen])
            zs = zs.reshape(z.shape[:-1] + factor.lead + factor.structure.event_shape)
            none = torch.zeros(*factor.lead, *factor.structure.shape, dtype=torch.float64)
            added = factor.structure.score(zs, none, *given)
            total = (
                total + added.flatten(start_dim=added.ndim - len(factor.lead)).sum(-1) if factor.lead else total + added
            )
        return total


def tree():
    """Several kinds of factors that share variables, and no cycle."""
    graph = FactorGraph(variables=8)
    graph.add(Xor(3), [0, 1, 2])
    graph.add(Pair(), [[2, 3], [3, 4]])
    graph.add(AtMostOne(3), [4, 5, 6])
    graph.add(Or(2), [6, 7])
    return graph


def structured_tree():
    """A chain and a matching that meet in one variable, and a pair."""
    graph = FactorGraph(variables=9)
    graph.add(sl.LinearChain(2, 2), [[0, 1], [2, 3]])
    graph.add(sl.BipartiteMatching(2, 2, partial=True), [[3, 4], [5, 6]])
    graph.add(Pair(), [6, 7])
    return graph


def path(symmetric=None):
    graph = FactorGraph(variables=6, symmetric=symmetric)
    graph.add(Pair(), [[i, i + 1] for i in range(5)])
    return graph


def symmetric_tree():
    graph = FactorGraph(variables=7)
    graph.add(sl.BitVector(2), [0, 1])
    graph.add(sl.BudgetBitVector(3, 1), [1, 2, 3])
    graph.add(sl.BudgetBitVector(4, 2, exact=True), [3, 4, 5, 6])
    return graph


def loop():
    """A triangle of pairs with a tail: frustrated where two couplings are positive and one is not."""
    graph = FactorGraph(variables=4)
    graph.add(Pair(), [[0, 1], [1, 2], [2, 0], [2, 3]])
    return graph


def logic_loops():
    graph = FactorGraph(variables=7)
    graph.add(AtMostOne(4), [[0, 1, 2, 3], [2, 3, 4, 5]])
    graph.add(Or(3), [[1, 4, 6], [0, 5, 6]])
    graph.add(Xor(3), [1, 5, 6])
    return graph


def structured_loops():
    graph = FactorGraph(variables=8)
    graph.add(sl.LinearChain(2, 3), [[0, 1, 2], [3, 4, 5]])
    graph.add(sl.BudgetBitVector(4, 2, symmetric=False), [0, 4, 6, 7])
    graph.add(Pair(), [[1, 3], [5, 6]])
    return graph


ACYCLIC = {"tree": tree, "meeting": structured_tree, "path": path, "symmetric": symmetric_tree}
LOOPY = {"loop": loop, "logic": logic_loops, "structured": structured_loops}


def draw_for(graph, generator, rows, scale=1.0):
    """Normal scores and extra scores, float64."""
    shapes = [(graph.variables,), *graph.extra_shapes]
    return [scale * torch.randn(rows, *s, generator=generator, dtype=torch.float64) for s in shapes]


def distance_to_hull(structure, mean):
    """How far ``mean`` [*shape] is from a mean of structures, at most: by non-negative least squares."""
    every = structure.enumerate()
    a = structure.vertex(every).reshape(len(every), -1).double().numpy()
    p, _ = nnls(np.vstack([a.T, np.full(len(a), 10.0)]), np.append(mean.reshape(-1).numpy(), 10.0), maxiter=10_000)
    return np.abs(p @ a / p.sum() - mean.reshape(-1).numpy()).max()


def exact(graph, inputs, gamma=1.0):
    """Marginals [B, n] and value [B] of the quadratic program over all assignments, by the judge's own methods."""
    space = Assignments(graph)
    means, values = [], []
    for row in range(len(inputs[0])):
        a, h = vertices_and_offsets(space, inputs[1:], row)
        x = inputs[0][row].numpy()
        g, shift = (2 * gamma, gamma) if graph.symmetric else (gamma, 0)
        feasible = ~(a[:, np.isneginf(x)] > 0).any(1) & np.isfinite(h)
        a, h = a[feasible], h[feasible]
        centre = np.where(np.isneginf(x), 0, x) + shift
        p = _solve(a, (a @ centre + h) / g)
        mu = p @ a
        means.append(mu)
        values.append(centre @ mu + h @ p - g / 2 * mu @ mu - shift * graph.variables / 2)
    return torch.from_numpy(np.stack(means)), torch.tensor(values, dtype=torch.float64)
