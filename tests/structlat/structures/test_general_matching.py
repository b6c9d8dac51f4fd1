import networkx
import pytest
import torch

import structlat as sl
from structlat.structures.general_matching import GeneralMatching
from structlat.testing import check_structure
from tests.structure_tests import StructureTests

TRIANGLES = networkx.Graph([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "f"), ("f", "d")])


class TestGeneralMatching(StructureTests):
    cases = (
        GeneralMatching(networkx.path_graph(2)),
        GeneralMatching(networkx.complete_graph(3)),
        GeneralMatching(networkx.path_graph(5)),
        GeneralMatching(networkx.complete_graph(4), perfect=True),
        GeneralMatching(TRIANGLES, perfect=True),
    )
    counts = (2, 4, 8, 3, 1)


def test_known_counts():
    assert GeneralMatching(networkx.complete_graph(10)).cardinality() == 9496  # involutions: OEIS A000085
    assert GeneralMatching(networkx.complete_graph(10), perfect=True).cardinality() == 945  # 9!!
    assert GeneralMatching(networkx.petersen_graph(), perfect=True).cardinality() == 6


def test_names_are_kept():
    space = GeneralMatching(TRIANGLES)
    assert space.edges == list(TRIANGLES.edges)
    assert repr(space) == "GeneralMatching(<6 nodes: 'a', 'b', 'c', 'd', ...; 7 edges>, perfect=False)"
    scores = torch.tensor([2.0 if {"a", "c"} == set(edge) else 1.0 for edge in space.edges])
    z = sl.argmax(space, scores)
    on = {frozenset(edge) for edge, used in zip(space.edges, z.tolist(), strict=True) if used}
    assert frozenset("ac") in on
    assert len(on) == 2


@pytest.mark.parametrize("perfect", [False, True])
def test_check_structure(perfect):
    check_structure(GeneralMatching(networkx.complete_graph(4), perfect), rows=4)


def test_contains():
    z = torch.tensor([[0, 0, 0], [1, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, -1], [0.5, 0, 1]])
    path = networkx.path_graph(4)
    assert GeneralMatching(path).contains(z).tolist() == [True, True, False, True, False, False]
    assert GeneralMatching(path, perfect=True).contains(z).tolist() == [False, True, False, False, False, False]
    assert GeneralMatching(path).contains(z.long().reshape(2, 3, 3)).shape == (2, 3)
    with pytest.raises(sl.ArgumentError, match=r"z: got shape \(6, 2\)"):
        GeneralMatching(path).contains(z[:, :2])


def test_bipartite_graphs_have_the_sparsemap_of_the_assignment_space(generator):
    graph = networkx.complete_bipartite_graph(3, 3)
    scores = torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    for perfect in (False, True):
        mean = sl.sparsemap(GeneralMatching(graph, perfect), scores.reshape(4, 9), on_failure="raise").mean
        want = sl.sparsemap(sl.BipartiteMatching(3, 3, partial=not perfect), scores, on_failure="raise").mean
        torch.testing.assert_close(mean.reshape(4, 3, 3), want, atol=1e-7, rtol=0)


def test_odd_cycles_count(generator):
    """Edmonds' polytope: an odd cycle of 2 m + 1 nodes has at most m edges on, where degrees alone allow m + 1/2."""
    space = GeneralMatching(networkx.cycle_graph(5))
    mean = sl.sparsemap(space, torch.full((5,), 9.0, dtype=torch.float64), on_failure="raise").mean
    torch.testing.assert_close(mean, torch.full((5,), 0.4, dtype=torch.float64), atol=1e-9, rtol=0)


def test_weights_of_the_graph_are_not_read():
    graph = networkx.path_graph(4)
    graph.edges[1, 2]["weight"] = 100
    assert sl.argmax(GeneralMatching(graph, perfect=True), torch.zeros(3)).tolist() == [1, 0, 1]


def test_enumeration_stops_at_its_limit():
    """At the first matching too many: counting them all first would take for ever here."""
    with pytest.raises(sl.ArgumentError, match=r"limit: .* has more than 1000 structures"):
        GeneralMatching(networkx.complete_graph(60)).enumerate(limit=1000)


def test_sums_are_intractable():
    with pytest.raises(NotImplementedError, match=r"#P-hard \(Valiant 1979\).*perturb_and_map"):
        GeneralMatching(TRIANGLES).log_partition(torch.zeros(7))


@pytest.mark.parametrize(
    ("graph", "perfect", "text"),
    [
        (networkx.DiGraph([(0, 1)]), False, "graph: got a DiGraph"),
        (networkx.Graph([(0, 0)]), False, "graph: has an edge from 0 to itself"),
        (networkx.empty_graph(3), False, "graph: got <3 nodes: 0, 1, 2; 0 edges>"),
        (networkx.cycle_graph(3), True, "graph: has no perfect matching .a largest one leaves out"),
        (networkx.star_graph(["hub", "x", "y", "z"]), True, "graph: has no perfect matching .a largest one leaves out"),
    ],
)
def test_graphs_that_are_refused(graph, perfect, text):
    with pytest.raises(sl.ArgumentError, match=text):
        GeneralMatching(graph, perfect)
