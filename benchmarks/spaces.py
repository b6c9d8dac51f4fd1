"""What each space's oracles cost, beside independent implementations, and how that grows with length and k.

One thread, scores of scale 1, float64. "MAP" is ``structure.argmax``, "top-4" and "top-10" are ``structure.topk``,
"log-partition" ``structure.log_partition``, "with gradient" the same and its gradient (the marginals), "10 samples"
``structure.sample``, "sparsemap" the distribution and its probabilities. Peers: torch-struct for chains and projective
trees, in float64, on copies where it writes into what it is given; SciPy and NetworkX row by row: they know no batch.
Chains have a kernel of their own for MAP: beside it stands what their hypergraph takes.

    python benchmarks/spaces.py
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import networkx
import numpy as np
import torch
from growth import fit
from harness import Call, Case, alternate, load, normal, parse, parser, picture, pyplot, save, seconds, spread, table
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import structlat as sl
from oracles import hypergraph
from structlat.tractable import Tractable

torch_struct: Any = None
with contextlib.suppress(ImportError):
    torch_struct = importlib.import_module("torch_struct")

KS = (4, 10)
SPACES: dict[str, tuple[Callable[[], sl.Structure], int]] = {
    "chain 32x16": (lambda: sl.LinearChain(32, 16), 8),
    "semi-Markov 20x5, segments to 6": (lambda: sl.SemiMarkov(20, 5, 6), 64),
    "alignment 50x50": (lambda: sl.Alignment(50, 50), 64),
    "projective tree 20": (lambda: sl.DependencyTree(20), 64),
    "projective tree 20, one root": (lambda: sl.DependencyTree(20, multi_root=False), 64),
    "tree 20": (lambda: sl.DependencyTree(20, projective=False), 64),
    "tree 20, one root": (lambda: sl.DependencyTree(20, projective=False, multi_root=False), 64),
    "binary tree 20": (lambda: sl.BinaryTree(20), 64),
    "spanning tree, 20 nodes, 60 edges": (lambda: sl.SpanningTree(networkx.gnm_random_graph(20, 60, seed=1)), 64),
    "matching 30x30": (lambda: sl.BipartiteMatching(30, 30), 64),
    "general matching, 20 nodes, 60 edges": (
        lambda: sl.GeneralMatching(networkx.gnm_random_graph(20, 60, seed=1)),
        64,
    ),
    "path, 100 nodes, 500 edges": (lambda: sl.ShortestPath(dag(100, 500), 0, 99), 64),
    "knapsack 30, capacity 60": (lambda: sl.Knapsack([1 + i % 9 for i in range(30)], 60), 64),
}
QUICK = ("chain 32x16", "projective tree 20", "tree 20", "matching 30x30")


class Curve(NamedTuple):
    """What is timed along one axis: spaces by value, and what is asked of them, with the value as k where it is k."""

    axis: str
    values: tuple[int, ...]
    space: Callable[[int], sl.Structure]
    what: str


CURVES = {
    "chain n x 5": Curve("length", (10, 20, 40, 80, 160, 320), lambda n: sl.LinearChain(n, 5), "MAP"),
    "chain n x 5, top-10": Curve("length", (10, 20, 40, 80, 160, 320), lambda n: sl.LinearChain(n, 5), "top-10"),
    "alignment n x n": Curve("length", (10, 20, 40, 80), lambda n: sl.Alignment(n, n), "MAP"),
    "projective tree": Curve("length", (5, 10, 20, 40), sl.DependencyTree, "MAP"),
    "tree": Curve("length", (5, 10, 20, 40), lambda n: sl.DependencyTree(n, projective=False), "MAP"),
    "binary tree": Curve("length", (5, 10, 20, 40), sl.BinaryTree, "MAP"),
    "matching n x n": Curve("length", (5, 10, 20, 40), lambda n: sl.BipartiteMatching(n, n), "MAP"),
    "chain 20x5": Curve("k", (1, 4, 16, 64, 256, 1024), lambda _: sl.LinearChain(20, 5), "top-k"),
    "projective tree 20": Curve("k", (1, 4, 16, 64, 256, 1024), lambda _: sl.DependencyTree(20), "top-k"),
    "alignment 20x20": Curve("k", (1, 4, 16, 64, 256, 1024), lambda _: sl.Alignment(20, 20), "top-k"),
    "tree 20": Curve("k", (1, 4, 16, 64), lambda _: sl.DependencyTree(20, projective=False), "top-k"),
    "matching 10x10": Curve("k", (1, 4, 16, 64, 256), lambda _: sl.BipartiteMatching(10, 10), "top-k"),
}


def dag(nodes: int, edges: int) -> networkx.DiGraph:
    """A random directed acyclic graph with a path through all of its nodes."""
    rng = np.random.default_rng(0)
    found = {(i, i + 1): None for i in range(nodes - 1)}
    while len(found) < edges:
        u, v = sorted(rng.choice(nodes, 2, replace=False).tolist())
        found[u, v] = None
    return networkx.DiGraph(list(found))


def asked(space: sl.Structure, scores: Tensor, extra: list[Tensor], k: int = 1) -> dict[str, Call]:
    """What is timed of ours."""
    calls: dict[str, Call] = {
        "MAP": lambda: space.argmax(scores, *extra),
        **{f"top-{few}": partial(space.topk, scores, *extra, k=few) for few in KS},
        "top-k": lambda: space.topk(scores, *extra, k=k),
        "sparsemap": lambda: sl.sparsemap(space, scores, *extra).probs,
    }
    if isinstance(space, Tractable):
        leaf = scores.clone().requires_grad_()
        calls["log-partition"] = lambda: space.log_partition(scores, *extra)
        calls["with gradient"] = lambda: torch.autograd.grad(space.log_partition(leaf, *extra).sum(), leaf)
        calls["10 samples"] = lambda: space.sample(scores, *extra, shape=(10,))
    return calls


def peers(space: sl.Structure, scores: Tensor, extra: list[Tensor]) -> Iterator[tuple[str, str, Call]]:
    """What others have for the same: what, whose, and the call."""
    if isinstance(space, sl.BipartiteMatching):
        arrays = scores.numpy()
        yield "MAP", "SciPy", lambda: [linear_sum_assignment(x, maximize=True) for x in arrays]
    if isinstance(space, sl.DependencyTree) and not space.projective and space.multi_root:
        yield "MAP", "NetworkX", lambda: [networkx.maximum_spanning_arborescence(g) for g in arcs(scores)]
    if isinstance(space, sl.SpanningTree):
        yield "MAP", "NetworkX", lambda: [networkx.maximum_spanning_tree(g) for g in weighted(space.edges, scores)]
    if isinstance(space, sl.GeneralMatching):
        yield "MAP", "NetworkX", lambda: [networkx.max_weight_matching(g) for g in weighted(space.edges, scores)]
    made: Callable[[], Any] | None = None
    if isinstance(space, sl.LinearChain):
        unary, arcs_between = scores.flatten(start_dim=1).numpy(), extra[0].flatten(start_dim=1).numpy()
        yield "MAP", "its hypergraph", lambda: hypergraph.argmax(space.graph, unary, arcs_between)
        potentials = extra[0].transpose(-1, -2) + scores[:, 1:, :, None]
        potentials[:, 0] += scores[:, 0, None, :]

        def made() -> Any:
            return torch_struct.LinearChainCRF(potentials.clone().requires_grad_())

    elif isinstance(space, sl.DependencyTree) and space.projective:
        own = torch.arange(space.words)
        heads = scores[:, :, 1:].transpose(1, 2).clone()
        heads[:, own, own] = scores[:, :, 0]
        leaf = heads.requires_grad_()

        def made() -> Any:
            return torch_struct.DependencyCRF(leaf + 0, multiroot=space.multi_root)

    if made is not None and torch_struct is not None:
        yield "MAP", "torch-struct", lambda: made().argmax

        def topk(k: int) -> object:
            return made().topk(k)

        for k in KS:
            yield f"top-{k}", "torch-struct", partial(topk, k)
        yield "log-partition", "torch-struct", lambda: made().partition
        yield "with gradient", "torch-struct", lambda: made().marginals


def arcs(scores: Tensor) -> Iterator[networkx.DiGraph]:
    """Rows of head scores as directed graphs."""
    for row in scores.tolist():
        graph = networkx.DiGraph()
        graph.add_weighted_edges_from(
            (h, m + 1, x) for m, line in enumerate(row) for h, x in enumerate(line) if h != m + 1
        )
        yield graph


def weighted(edges: list[Any], scores: Tensor) -> Iterator[networkx.Graph]:
    """Rows of edge scores as graphs."""
    for row in scores.tolist():
        graph = networkx.Graph()
        graph.add_weighted_edges_from((u, v, x) for (u, v), x in zip(edges, row, strict=True))
        yield graph


def measure(name: str, quick: bool, runs: int, limit: float) -> list[Case]:
    """A line for all that is asked of one space, and whom it is compared with."""
    make, batch = SPACES[name]
    space = make()
    scores, extra = normal(space, 2 if quick else batch)
    ours = asked(space, scores, extra)
    del ours["top-k"]
    others: dict[str, list[tuple[str, Call]]] = {}
    for what, whose, call in peers(space, scores, extra):
        others.setdefault(what, []).append((whose, call))
    results = []
    for what, call in ours.items():
        alternatives = {"structlat": call, **dict(others.get(what, []))}
        for one in alternatives.values():
            one()
        slow = [whose for whose, one in alternatives.items() if seconds(one) > limit]
        times = {whose: spread(spent) for whose, spent in alternate(alternatives, 2 if slow else runs).items()}
        mine = times["structlat"]["median"]
        results.append(
            {
                "structure": name,
                "batch": len(scores),
                "what": what,
                "ms": times,
                "times_faster": {
                    whose: round(t["median"] / mine, 2) for whose, t in times.items() if whose != "structlat"
                },
                "load_average": load(),
            }
        )
    return results


def grow(name: str, quick: bool, runs: int) -> Case:
    """Time along one curve, batch 16."""
    curve = CURVES[name]
    values = curve.values[:3] if quick else curve.values
    times = {}
    for value in values:
        space = curve.space(value)
        scores, extra = normal(space, 16)
        call = asked(space, scores, extra, value)[curve.what]
        times[value] = spread(alternate({0: call}, runs)[0])
    upper = values[len(values) // 2 - 1 :]
    return {
        "curve": name,
        "axis": curve.axis,
        "what": curve.what,
        "values": list(values),
        "ms": list(times.values()),
        "exponent": fit([(value, times[value]["median"]) for value in upper]),
        "load_average": load(),
    }


def lines(results: list[Case]) -> list[Case]:
    """A line a space and question."""
    whose = dict.fromkeys(other for r in results for other in r["ms"])
    return [
        {
            "structure": r["structure"],
            "batch": r["batch"],
            "what": r["what"],
            **{f"{w}, ms": r["ms"][w]["median"] if w in r["ms"] else "" for w in whose},
        }
        for r in results
    ]


def draw(curves: list[Case]) -> Any:
    """Time over length, and over k."""
    figure, axes = pyplot().subplots(1, 2, figsize=(9.5, 4.6), layout="constrained")
    for ax, axis in zip(axes, ("length", "k"), strict=True):
        for curve in (c for c in curves if c["axis"] == axis):
            label = f"{curve['curve']}: exponent {curve['exponent']:.2f}"
            ax.loglog(curve["values"], [t["median"] for t in curve["ms"]], "o-", markersize=3, label=label)
        ax.set_xlabel(axis)
        ax.set_ylabel("ms, batch 16, one thread")
        ax.grid(visible=True, alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def main() -> None:
    """Run everything, print a table, write JSON and a picture."""
    warnings.filterwarnings("ignore", module="torch_struct")
    warnings.filterwarnings("ignore", message=".*arg_constraints.*")
    made = parser(__doc__)
    made.add_argument(
        "--limit", type=float, default=2.0, help="seconds beyond which an alternative is timed twice only"
    )
    options = parse(made)
    torch.set_num_threads(1)
    results: list[Case] = []
    for name in QUICK if options.quick else SPACES:
        found = measure(name, options.quick, options.runs, options.limit)
        results += found
        for line in lines(found):
            print(*line.values(), sep="  ", flush=True)
    curves = []
    for name in list(CURVES)[:: 7 if options.quick else 1]:
        curves.append(grow(name, options.quick, options.runs))
        print(name, curves[-1]["exponent"], flush=True)
    print(table(lines(results)))
    save(options, results, ("networkx", "torch-struct"), threads=1, growth=curves)
    picture(draw(curves), options.picture)


if __name__ == "__main__":
    main()
