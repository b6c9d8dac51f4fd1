import networkx
import pytest

import structlat as sl
from structlat.structures._graph import GraphParts


@pytest.mark.parametrize("directed", [False, True])
def test_names_and_numbers(directed):
    graph = networkx.DiGraph() if directed else networkx.Graph()
    graph.add_edges_from([("b", "a"), ("a", 7), ("b", (1, 2)), ((1, 2), "z")])
    parts = GraphParts(graph, directed)
    assert parts.nodes == ["b", "a", 7, (1, 2), "z"]
    assert parts.edges == list(graph.edges)
    assert [(parts.nodes[u], parts.nodes[v]) for u, v in parts.index] == parts.edges
    assert parts.node("source", 7) == 2
    assert repr(parts) == "<5 nodes: 'b', 'a', 7, (1, 2), ...; 4 edges>"
    graph.remove_node("b")
    assert len(parts.edges) == 4


@pytest.mark.parametrize("value", ["x", [1]])
def test_a_node_that_is_not_there(value):
    with pytest.raises(sl.ArgumentError, match=r"target: got .*; expected a node of <2 nodes: 0, 1; 1 edges>"):
        GraphParts(networkx.path_graph(2), False).node("target", value)


@pytest.mark.parametrize(
    ("graph", "directed", "text"),
    [
        (networkx.DiGraph([(0, 1)]), False, r"graph: got a DiGraph; expected a networkx\.Graph"),
        (networkx.Graph([(0, 1)]), True, r"graph: got a Graph; expected a networkx\.DiGraph"),
        (networkx.MultiGraph([(0, 1)]), False, "graph: got a MultiGraph"),
        (networkx.MultiDiGraph([(0, 1)]), True, "graph: got a MultiDiGraph"),
        ([(0, 1)], False, r"graph: got \[\(0, 1\)\]"),
        (networkx.Graph(), False, "graph: got <0 nodes: ; 0 edges>.*at least one edge"),
        (networkx.empty_graph(2), False, "graph: got <2 nodes: 0, 1; 0 edges>.*at least one edge"),
        (networkx.Graph([("a", "b"), ("b", "b")]), False, "graph: has an edge from 'b' to itself"),
        (networkx.DiGraph([("a", "b"), ("b", "b")]), True, "graph: has an edge from 'b' to itself"),
    ],
)
def test_graphs_that_are_refused(graph, directed, text):
    with pytest.raises(sl.ArgumentError, match=text):
        GraphParts(graph, directed)
