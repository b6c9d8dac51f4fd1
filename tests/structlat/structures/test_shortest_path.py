import networkx
import pytest
import torch

import structlat as sl
from tests.structure_tests import StructureTests

DIAMOND = networkx.DiGraph([("s", "a"), ("s", "b"), ("a", "b"), ("a", "t"), ("b", "t"), ("t", "x"), ("y", "b")])


def layered(layers, width):
    """A graph of ``layers`` layers between "s" and "t": width^layers paths."""
    graph = networkx.DiGraph()
    last = ["s"]
    for i in range(layers):
        here = [(i, j) for j in range(width)]
        graph.add_edges_from((u, v) for u in last for v in here)
        last = here
    graph.add_edges_from((u, "t") for u in last)
    return graph


class TestShortestPath(StructureTests):
    cases = (
        sl.ShortestPath(networkx.DiGraph([(0, 1)]), 0, 1),
        sl.ShortestPath(DIAMOND, "s", "t"),
        sl.ShortestPath(layered(2, 3), "s", "t"),
    )
    counts = (1, 3, 9)


def test_against_networkx(generator):
    graph = networkx.gnp_random_graph(30, 0.3, seed=1, directed=True)
    graph = networkx.DiGraph([(u, v) for u, v in graph.edges if u < v])
    graph.add_edges_from((i, i + 1) for i in range(29))
    space = sl.ShortestPath(graph, 0, 29)
    assert space.edges == list(graph.edges)
    length = torch.rand(10, len(graph.edges), generator=generator, dtype=torch.float64)
    z = sl.argmax(space, -length)
    for row in range(10):
        for (u, v), x in zip(graph.edges, length[row].tolist(), strict=True):
            graph[u][v]["length"] = x
        want = networkx.shortest_path_length(graph, 0, 29, weight="length")
        assert float((z[row] * length[row]).sum()) == pytest.approx(want)
    assert space.cardinality() == sum(1 for _ in networkx.all_simple_paths(graph, 0, 29)) if len(graph) < 15 else True


def test_counts_paths():
    assert sl.ShortestPath(layered(40, 3), "s", "t").cardinality() == 3**40


def test_names_are_kept():
    space = sl.ShortestPath(DIAMOND, "s", "t")
    z = sl.argmax(space, torch.tensor([0.0, 5.0, 0.0, 0.0, 1.0, 9.0, 9.0]))
    assert [edge for edge, on in zip(space.edges, z, strict=True) if on] == [("s", "b"), ("b", "t")]
    assert "'s' to 't'" in repr(space)


@pytest.mark.parametrize(
    ("graph", "source", "target", "text"),
    [
        (networkx.Graph([(0, 1)]), 0, 1, "graph: got a Graph; expected a networkx.DiGraph"),
        (networkx.DiGraph([(0, 1), (1, 2), (2, 0)]), 0, 1, "graph: has the cycle 0 -> 1 -> 2"),
        (DIAMOND, "s", "z", "target: got 'z'; expected a node"),
        (DIAMOND, "t", "s", "target: no path leads from 't' to 's'"),
        (DIAMOND, "s", "s", "target: got 's', the source itself"),
    ],
)
def test_what_is_refused(graph, source, target, text):
    with pytest.raises(sl.ArgumentError, match=text):
        sl.ShortestPath(graph, source, target)
