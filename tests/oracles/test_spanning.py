from itertools import combinations

import networkx
import numpy as np
import pytest
from scipy.stats import chi2

from oracles import partition, spanning
from tests.oracles.brute_force import Judge, check_inputs, check_prefix, distinct, instances
from tests.oracles.test_compiled import ask

GRAPHS = {
    "edge": networkx.path_graph(2),
    "path": networkx.path_graph(4),
    "cycle": networkx.cycle_graph(5),
    "complete": networkx.complete_graph(4),
    "bipartite": networkx.complete_bipartite_graph(2, 3),
    "kite": networkx.Graph([(3, 0), (0, 1), (1, 2), (2, 0), (3, 4)]),
}


def parts(graph):
    return np.array(graph.edges), len(graph)


def every(graph):
    """All spanning trees, as vectors of the edges, by NetworkX' notion of a tree."""
    edges = list(graph.edges)
    found = []
    for on in combinations(range(len(edges)), len(graph) - 1):
        tree = networkx.Graph([edges[e] for e in on])
        if networkx.is_tree(tree) and len(tree) == len(graph):
            found.append([e in on for e in range(len(edges))])
    return np.array(found)


def score(z, scores):
    return np.where(z, scores[:, None], 0).sum(axis=2)


def random_graph(rng, nodes, edges):
    while True:
        graph = networkx.gnm_random_graph(nodes, edges, seed=int(rng.integers(1 << 30)))
        if networkx.is_connected(graph):
            return graph


@pytest.mark.parametrize("name", GRAPHS)
def test_against_enumeration(name):
    structures, (edges, nodes) = every(GRAPHS[name]), parts(GRAPHS[name])
    judge, scores = Judge(structures, structures), instances(nodes, (len(edges),))
    feasible = judge.scores(scores).max(axis=1) > -np.inf
    z = spanning.argmax(scores, edges, nodes)
    assert z.dtype == bool
    judge.check_argmax(z, scores)
    assert z[~feasible].all()
    for k in range(1, len(structures) + 3):
        z, valid = spanning.topk(scores, edges, nodes, k)
        assert z.dtype == bool
        judge.check_topk(z, valid, scores, k)
        assert z[~feasible].all()


@pytest.mark.parametrize("name", GRAPHS)
def test_enumerate_cardinality_and_contains(name):
    structures, (edges, nodes) = every(GRAPHS[name]), parts(GRAPHS[name])
    found = spanning.enumerate(edges, nodes)
    assert sorted(found.tolist()) == sorted(structures.tolist())
    assert spanning.cardinality(edges, nodes) == len(structures)
    z = (np.arange(1 << len(edges))[:, None] >> np.arange(len(edges)) & 1).astype(bool)
    inside = spanning.contains(z, edges, nodes)
    assert sorted(z[inside].tolist()) == sorted(structures.tolist())


def test_known_counts():
    for n in range(2, 12):
        assert spanning.cardinality(*parts(networkx.complete_graph(n))) == n ** (n - 2)  # Cayley
        assert spanning.cardinality(*parts(networkx.complete_bipartite_graph(n, 3))) == n**2 * 3 ** (n - 1)
    assert spanning.cardinality(*parts(networkx.complete_graph(40))) == 40**38
    assert spanning.cardinality(*parts(index_grid(3))) == 192  # OEIS A007341
    assert spanning.cardinality(*parts(index_grid(4))) == 100352
    assert spanning.cardinality(np.array([[0, 1], [2, 3]]), 4) == 0


def index_grid(n):
    return networkx.convert_node_labels_to_integers(networkx.grid_2d_graph(n, n))


def test_inputs():
    edges, nodes = parts(GRAPHS["complete"])
    for k in (1, 5):
        check_inputs(
            lambda s: spanning.argmax(s, edges, nodes),
            lambda s, k=k: spanning.topk(s, edges, nodes, k),
            instances(0, (len(edges),)),
        )


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize(("nodes", "count"), [(8, 14), (20, 40), (40, 200)])
def test_argmax_against_networkx(nodes, count, integer):
    rng = np.random.default_rng(nodes)
    graph = random_graph(rng, nodes, count)
    edges = np.array(graph.edges)
    scores = rng.integers(-3, 4, (5, count)).astype(float) if integer else rng.normal(size=(5, count))
    for row, z in zip(scores, spanning.argmax(scores, edges, nodes), strict=True):
        for (u, v), x in zip(graph.edges, row, strict=True):
            graph.edges[u, v]["weight"] = x
        want = networkx.maximum_spanning_tree(graph).size("weight")
        assert row[z].sum() == pytest.approx(want, abs=1e-10)
        assert spanning.contains(z[None], edges, nodes).all()


def test_against_lawlers_partition():
    rng = np.random.default_rng(1)
    edges, nodes = parts(random_graph(rng, 7, 13))
    scores = rng.normal(size=(2, 13))

    def solve(on, off, row):
        z = spanning.argmax(partition.restrict(scores[row], (), on, off)[0], edges, nodes)
        return z, z, score(z[:, None], np.where(off, -np.inf, scores[row]))[:, 0]

    z, valid = spanning.topk(scores, edges, nodes, 25)
    assert valid.all()
    np.testing.assert_array_equal(z, partition.kbest(solve, 2, 13, 25, antichain=True)[0])


def test_large():
    rng = np.random.default_rng(0)
    edges, nodes = parts(random_graph(rng, 20, 60))
    scores = rng.normal(size=(1, 60))
    check_prefix(lambda k: spanning.topk(scores, edges, nodes, k), lambda z: score(z, scores), [1, 2, 499, 500])
    z, _ = spanning.topk(scores, edges, nodes, 500)
    assert distinct(z)
    assert spanning.contains(z[0], edges, nodes).all()
    np.testing.assert_array_equal(z[:, 0], spanning.argmax(scores, edges, nodes))


def test_compiled():
    rng = np.random.default_rng(2)
    for graph in (*GRAPHS.values(), random_graph(rng, 12, 30)):
        edges, nodes = parts(graph)
        for x in (*rng.normal(size=(5, len(edges))), *rng.integers(-1, 2, (5, len(edges)))):
            z = spanning.argmax(x[None], edges, nodes)[0]
            got = ask(spanning.compiled(edges, nodes), x, [], 0)[1]
            np.testing.assert_array_equal(got, z)
            again = ask(spanning.compiled(edges, nodes), x, [], 0, describe=True, v=got)[1]
            np.testing.assert_array_equal(again, got)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["cycle", "complete", "kite"])
def test_samples_have_their_probabilities(name, masked):
    """A chi-square test at the level 1e-3, on fixed numbers: rows of scores at different scales."""
    structures, (edges, nodes) = every(GRAPHS[name]), parts(GRAPHS[name])
    judge, rng, count = Judge(structures, structures), np.random.default_rng(nodes), 4000
    scores = rng.normal(size=(3, len(edges))) * np.array([[0.3], [1.0], [3.0]])
    if masked:
        scores[(rng.random(scores.shape) < 0.5) & ~structures[rng.integers(len(structures), size=3)]] = -np.inf
    z = spanning.sample(scores, edges, nodes, rng.random((count, 3, nodes - 1)))
    assert z.shape == (count, 3, len(edges))
    total = judge.scores(scores).astype(float)
    p = np.exp(total - total.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    for b, at in enumerate(judge.positions(z, 2).T):
        seen, expected = np.bincount(at, minlength=len(structures)), p[b] * count
        assert (seen[expected == 0] == 0).all()
        rare = expected < 5
        seen, expected = np.append(seen[~rare], seen[rare].sum()), np.append(expected[~rare], expected[rare].sum())
        kept = expected > 0
        statistic = ((seen - expected)[kept] ** 2 / expected[kept]).sum()
        assert statistic < chi2.ppf(0.999, max(kept.sum() - 1, 1))


def test_samples_at_a_large_scale():
    rng = np.random.default_rng(5)
    edges, nodes = parts(random_graph(rng, 9, 20))
    scores = 1e4 * rng.normal(size=(10, 20))
    gap = np.diff(score(spanning.topk(scores, edges, nodes, 2)[0], scores), axis=1)[:, 0]
    sure = gap < -40
    assert sure.sum() > 6
    z = spanning.sample(scores, edges, nodes, rng.random((20, 10, 8)))
    assert (z[:, sure] == spanning.argmax(scores, edges, nodes)[sure]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: spanning.argmax(np.zeros(3), e, 3), r"scores has shape \(3,\), expected \[B, E\]"),
        (lambda e: spanning.argmax(np.zeros((1, 4)), e, 3), r"edges has shape \(3, 2\), expected \[4, 2\]"),
        (lambda e: spanning.argmax(np.zeros((1, 3)), e, 2), "numbers from 0 to 1"),
        (lambda e: spanning.argmax(np.zeros((1, 3)), e, 1), "nodes is 1"),
        (lambda e: spanning.topk(np.zeros((1, 3)), e, 3, 0), "k is 0"),
        (lambda e: spanning.sample(np.zeros((1, 3)), e, 3, np.zeros((2, 1, 3))), r"uniform has shape \(2, 1, 3\)"),
    ],
)
def test_nonsense(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.array([[0, 1], [1, 2], [2, 0]]))
