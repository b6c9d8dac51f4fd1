import math
from fractions import Fraction
from itertools import product

import networkx
import numpy as np
import pytest

from oracles import general_matching, matching
from tests.oracles.brute_force import Judge, check_inputs, check_prefix, distinct, instances

GRAPHS = {
    "edge": networkx.path_graph(2),
    "path": networkx.path_graph(4),
    "triangles": networkx.Graph([(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5), (5, 3)]),
    "complete": networkx.complete_graph(4),
    "bipartite": networkx.complete_bipartite_graph(2, 3),
    "odd": networkx.Graph([(4, 0), (0, 1), (1, 2), (2, 0), (3, 2)]),
}
SPACES = [(name, False) for name in GRAPHS] + [(name, True) for name in ("edge", "path", "triangles", "complete")]


def parts(graph):
    return np.array(graph.edges), len(graph)


def every(graph, perfect):
    edges, nodes = parts(graph)
    found = []
    for z in product([False, True], repeat=len(edges)):
        covered = np.bincount(edges[list(z)].ravel(), minlength=nodes)
        if (covered == 1).all() if perfect else (covered <= 1).all():
            found.append(z)
    return np.array(found)


def score(z, scores):
    return np.where(z, scores[:, None], 0).sum(axis=2)


@pytest.mark.parametrize(("name", "perfect"), SPACES)
def test_against_enumeration(name, perfect):
    structures, (edges, nodes) = every(GRAPHS[name], perfect), parts(GRAPHS[name])
    judge, scores = Judge(structures, structures), instances(nodes, (len(edges),))
    feasible = judge.scores(scores).max(axis=1) > -np.inf
    z = general_matching.argmax(scores, edges, nodes, perfect)
    assert z.dtype == bool
    judge.check_argmax(z, scores)
    assert z[~feasible].all()
    for k in {1, 2, 3, len(structures) - 1, len(structures), len(structures) + 2} - {0}:
        z, valid = general_matching.topk(scores, edges, nodes, k, perfect)
        assert z.dtype == bool
        judge.check_topk(z, valid, scores, k)


@pytest.mark.parametrize(("name", "perfect"), SPACES)
def test_enumerate_and_cardinality(name, perfect):
    structures, (edges, nodes) = every(GRAPHS[name], perfect), parts(GRAPHS[name])
    found = general_matching.enumerate(edges, nodes, perfect)
    assert found.dtype == bool
    assert sorted(found.tolist()) == sorted(structures.tolist())
    assert general_matching.cardinality(edges, nodes, perfect) == len(structures)
    for limit in range(1, len(structures) + 2):
        few = general_matching.enumerate(edges, nodes, perfect, limit)
        np.testing.assert_array_equal(few, found[: limit + 1])


def test_known_counts():
    fibonacci, telephone = [1, 1], [1, 1]
    for n in range(2, 12):
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
        telephone.append(telephone[-1] + (n - 1) * telephone[-2])
        assert general_matching.cardinality(*parts(networkx.path_graph(n))) == fibonacci[n]
        assert general_matching.cardinality(*parts(networkx.complete_graph(n))) == telephone[n]
        want = math.prod(range(1, n, 2)) if n % 2 == 0 else 0  # (n - 1)!!
        assert general_matching.cardinality(*parts(networkx.complete_graph(n)), perfect=True) == want
        bipartite = parts(networkx.complete_bipartite_graph(n // 2, n - n // 2))
        assert general_matching.cardinality(*bipartite) == matching.cardinality(n // 2, n - n // 2, partial=True)
    board = networkx.convert_node_labels_to_integers(networkx.grid_2d_graph(8, 8))
    assert general_matching.cardinality(*parts(board), perfect=True) == 12988816  # dominoes on a chessboard
    assert general_matching.cardinality(*parts(networkx.path_graph(3)), perfect=True) == 0


def test_inputs():
    edges, nodes = parts(GRAPHS["complete"])
    for perfect in (False, True):
        check_inputs(
            lambda s, p=perfect: general_matching.argmax(s, edges, nodes, p),
            lambda s, p=perfect: general_matching.topk(s, edges, nodes, 3, p),
            instances(0, (len(edges),))[::3],
        )


@pytest.mark.parametrize("perfect", [False, True])
@pytest.mark.parametrize(("nodes", "count"), [(8, 16), (16, 50), (24, 60)])
def test_argmax_against_networkx(nodes, count, perfect):
    """On whole numbers, which it gets right: their matching's weight."""
    rng = np.random.default_rng(nodes)
    graph = networkx.gnm_random_graph(nodes, count, seed=nodes)
    graph.add_edges_from((2 * i, 2 * i + 1) for i in range(nodes // 2))
    edges = np.array(graph.edges)
    scores = rng.integers(-50, 100, (4, len(edges)))
    for row, z in zip(scores, general_matching.argmax(scores, edges, nodes, perfect), strict=True):
        for (u, v), x in zip(graph.edges, row.tolist(), strict=True):
            graph.edges[u, v]["weight"] = x
        best = networkx.max_weight_matching(graph, maxcardinality=perfect)
        assert row[z].sum() == sum(graph.edges[e]["weight"] for e in best)
        covered = np.bincount(edges[z].ravel(), minlength=nodes)
        assert (covered == 1).all() if perfect else (covered <= 1).all()


def test_exact_where_scores_are_of_all_sizes():
    """The best of all matchings in rational arithmetic, in rows where a float of the sum would not tell."""
    rng = np.random.default_rng(0)
    structures, (edges, nodes) = every(GRAPHS["complete"], True), parts(GRAPHS["complete"])
    scores = rng.choice([-1.0, 1.0], (40, 6)) * 2.0 ** rng.integers(-60, 60, (40, 6))
    for row in scores[:10]:  # each of the three matchings has an edge of 1e300 and a small one: that decides
        row[structures.argmax(1)] = 1e300
        row[5 - structures[:, ::-1].argmax(1)] = 1e-300 * rng.permutation(3)
    for row, z in zip(scores, general_matching.argmax(scores, edges, nodes, True), strict=True):
        exact = [sum(Fraction(x) for x in row[on]) for on in structures]
        assert sum(Fraction(x) for x in row[z]) == max(exact)


@pytest.mark.parametrize("perfect", [False, True])
def test_bipartite_graphs_have_the_matchings_of_the_assignment_oracle(perfect):
    rng = np.random.default_rng(1)
    graph = networkx.complete_bipartite_graph(5, 5)
    edges, scores = np.array(graph.edges), rng.normal(size=(3, 25))
    rows, ranks = np.arange(5), 12
    z, valid = general_matching.topk(scores, edges, 10, ranks, perfect)
    columns, _ = matching.topk(scores.reshape(3, 5, 5), ranks, partial=not perfect)
    assert valid.all()
    want = np.zeros((3, ranks, 5, 6), bool)
    want[np.arange(3)[:, None, None], np.arange(ranks)[:, None], rows, columns] = True
    np.testing.assert_array_equal(z.reshape(3, ranks, 5, 5), want[..., :5])


def test_infeasible_rows():
    edges, nodes = parts(GRAPHS["complete"])
    scores = np.zeros((3, 6))
    scores[1] = -np.inf
    scores[2, [0, 1, 2]] = -np.inf  # node 0 has no edge left
    assert general_matching.topk(scores, edges, nodes, 20, True)[1].sum(axis=1).tolist() == [3, 0, 0]
    assert general_matching.argmax(scores, edges, nodes, True)[1:].all()
    assert general_matching.topk(scores, edges, nodes, 20)[1].sum(axis=1).tolist() == [10, 1, 4]


@pytest.mark.parametrize("perfect", [False, True])
def test_large(perfect):
    edges, nodes = parts(networkx.convert_node_labels_to_integers(networkx.grid_2d_graph(4, 5)))
    scores = np.random.default_rng(3).normal(size=(1, len(edges)))

    def ranked(k):
        return general_matching.topk(scores, edges, nodes, k, perfect)

    check_prefix(ranked, lambda z: score(z, scores), [1, 2, 29, 30])
    assert distinct(ranked(30)[0])
    np.testing.assert_array_equal(ranked(1)[0][:, 0], general_matching.argmax(scores, edges, nodes, perfect))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: general_matching.argmax(np.zeros(3), e, 3), r"scores has shape \(3,\), expected \[B, E\]"),
        (lambda e: general_matching.argmax(np.zeros((1, 4)), e, 3), r"edges has shape \(3, 2\), expected \[4, 2\]"),
        (lambda e: general_matching.cardinality(e, 2), "numbers from 0 to 1"),
        (lambda e: general_matching.enumerate(e, 1), "nodes is 1"),
        (lambda e: general_matching.topk(np.zeros((1, 3)), e, 3, 0), "k is 0"),
    ],
)
def test_nonsense(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.array([[0, 1], [1, 2], [2, 0]]))
