import networkx
import pytest
import torch

import structlat as sl
from structlat.structures.spanning_tree import SpanningTree
from structlat.testing import check_structure
from tests.structure_tests import StructureTests

KITE = networkx.Graph([("d", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("c", "e")])


class TestSpanningTree(StructureTests):
    cases = (
        SpanningTree(networkx.path_graph(2)),
        SpanningTree(networkx.cycle_graph(5)),
        SpanningTree(networkx.complete_graph(4)),
        SpanningTree(networkx.complete_bipartite_graph(2, 3)),
        SpanningTree(KITE),
    )
    counts = (1, 5, 16, 12, 3)


def test_known_counts():
    assert SpanningTree(networkx.complete_graph(12)).cardinality() == 12**10
    assert SpanningTree(networkx.petersen_graph()).cardinality() == 2000
    assert SpanningTree(networkx.grid_2d_graph(4, 4)).cardinality() == 100352


def test_names_are_kept():
    space = SpanningTree(KITE)
    assert space.edges == list(KITE.edges)
    assert repr(space) == "SpanningTree(<5 nodes: 'd', 'a', 'b', 'c', ...; 5 edges>)"
    scores = torch.zeros(5)
    scores[space.edges.index(("a", "c"))] = -1
    z = sl.argmax(space, scores)
    on = [edge for edge, used in zip(space.edges, z.tolist(), strict=True) if used]
    assert on == [("d", "a"), ("a", "b"), ("b", "c"), ("c", "e")]


def test_check_structure():
    check_structure(SpanningTree(networkx.grid_2d_graph(2, 3)))


def test_contains():
    space = SpanningTree(networkx.cycle_graph(3))
    z = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 0], [0.5, 1, 0.5], [2, 1, 1]])
    assert space.contains(z).tolist() == [True, False, False, False, False]
    assert space.contains(z.reshape(5, 1, 3)).shape == (5, 1)
    assert space.contains(z[0]).shape == ()
    with pytest.raises(sl.ArgumentError, match=r"z: got shape \(5, 2\)"):
        space.contains(z[:, :2])


@pytest.mark.parametrize("seed", [0, 1])
def test_log_partition_is_the_determinant_of_the_laplacian(generator, seed):
    graph = networkx.connected_watts_strogatz_graph(12, 4, 0.5, seed=seed)
    space = SpanningTree(graph)
    scores = torch.randn(3, len(space.edges), generator=generator, dtype=torch.float64).requires_grad_()
    for (u, v), x in zip(space.edges, scores[0].detach().exp().tolist(), strict=True):
        graph.edges[u, v]["weight"] = x
    laplacian = torch.from_numpy(networkx.laplacian_matrix(graph, nodelist=range(12)).toarray())
    want = torch.linalg.slogdet(laplacian[1:, 1:]).logabsdet
    total = space.log_partition(scores)
    torch.testing.assert_close(total[0], want, rtol=1e-13, atol=0)
    # the marginals of a tree with 11 edges
    (mean,) = torch.autograd.grad(total.sum(), scores)
    torch.testing.assert_close(mean.sum(-1), torch.full((3,), 11.0, dtype=torch.float64), rtol=1e-12, atol=0)
    # an edge's marginal is its weight times its effective resistance
    inverse = torch.linalg.inv(laplacian + 1 / 12)
    ends = torch.tensor(space.edges)
    resistance = inverse[ends[:, 0], ends[:, 0]] + inverse[ends[:, 1], ends[:, 1]] - 2 * inverse[ends[:, 0], ends[:, 1]]
    torch.testing.assert_close(mean[0], scores[0].detach().exp() * resistance, rtol=1e-10, atol=0)


def test_a_bridge_is_in_every_tree(generator):
    space = SpanningTree(KITE)
    scores = 5 * torch.randn(7, 5, generator=generator)
    bridges = [space.edges.index(("d", "a")), space.edges.index(("c", "e"))]
    for mean in (sl.sparsemap(space, scores).mean, space.marginals(scores), space.sample(scores, generator=generator)):
        torch.testing.assert_close(mean[:, bridges], torch.ones(7, 2), rtol=0, atol=1e-6)
    scores[2, bridges[1]] = -torch.inf
    with pytest.raises(sl.InfeasibleError, match=r"row 2 \(1 of 7\)"):
        sl.sparsemap(space, scores)


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        (networkx.DiGraph([(0, 1)]), "graph: got a DiGraph"),
        (networkx.MultiGraph([(0, 1), (0, 1)]), "graph: got a MultiGraph"),
        (networkx.Graph([(0, 1), (1, 1)]), "graph: has an edge from 1 to itself"),
        (networkx.Graph([("a", "b"), ("c", "d")]), "graph: no path leads from 'a' to 'c'; expected a connected graph"),
        (networkx.Graph(), "graph: got <0 nodes"),
        ("abc", "graph: got 'abc'"),
    ],
)
def test_graphs_that_are_refused(graph, text):
    with pytest.raises(sl.ArgumentError, match=text):
        SpanningTree(graph)
