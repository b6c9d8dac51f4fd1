import networkx
import numpy as np
import pytest

from structlat.plot.drawings.layouts import APART, bend_edges, curve, place_names, place_nodes

ROOM = (9.0, 4.5)
GRAPHS = [
    networkx.path_graph(6),
    networkx.complete_graph(5),
    networkx.convert_node_labels_to_integers(networkx.grid_2d_graph(3, 4)),
    networkx.disjoint_union(networkx.cycle_graph(4), networkx.path_graph(2)),
    networkx.empty_graph(3),
    networkx.DiGraph([(0, 1), (1, 2), (2, 3), (0, 2), (0, 3)]),
    networkx.DiGraph([(0, 1), (0, 2), (1, 3), (2, 3), (4, 3)]),
]


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_nodes_are_apart_within_the_room_and_in_the_same_places_every_time(graph):
    places = place_nodes(graph, 0.7, 0.6, ROOM)
    assert places.shape == (len(graph), 2)
    distance = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(len(graph))
    assert distance.min() > 0.3
    assert (np.ptp(places, axis=0) <= np.array(ROOM) + 1e-9).all()
    np.testing.assert_array_equal(places, place_nodes(graph, 0.7, 0.6, ROOM))


def test_a_large_graph_takes_no_more_than_the_room():
    for graph in (networkx.path_graph(120), networkx.DiGraph((i, i + 1) for i in range(120))):
        places = place_nodes(graph, 0.7, 0.6, ROOM)
        assert (np.ptp(places, axis=0) <= np.array(ROOM) + 1e-9).all()
        assert (np.ptp(places, axis=0) >= np.array(ROOM) - 1e-9).any()
        np.testing.assert_array_equal(places, place_nodes(graph, 0.7, 0.6, ROOM))


def test_components_lie_side_by_side():
    graph = networkx.disjoint_union_all([networkx.cycle_graph(5), networkx.path_graph(3), networkx.path_graph(1)])
    x = place_nodes(graph, 0.7, 0.6, ROOM)[:, 0]
    assert x[:5].max() < x[5:8].min()
    assert x[5:8].max() < x[8]


def test_edges_of_a_directed_graph_lead_to_the_right_and_do_not_cross_without_need():
    graph = networkx.DiGraph([(0, 1), (0, 2), (1, 4), (2, 3), (4, 5), (3, 5)])
    places = place_nodes(graph, 0.7, 0.6, ROOM)
    assert all(places[u, 0] < places[v, 0] for u, v in graph.edges)
    assert (places[1, 1] > places[2, 1]) == (places[4, 1] > places[3, 1])


def test_an_edge_bends_around_a_node_in_its_way_and_only_then():
    places = np.array([(0.0, 0), (1, 0), (2, 0), (1, 1)])
    bends = bend_edges(places, [(0, 1), (0, 2), (0, 3)])
    assert bends[0] == bends[2] == 0
    assert bends[1] != 0
    line = curve(places[0], places[2], bends[1])
    np.testing.assert_allclose(line[[0, -1]], places[[0, 2]])
    assert np.linalg.norm(line - places[1], axis=-1).min() >= 0.12 < APART


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_names_are_on_nothing_else(graph):
    places = place_nodes(graph, 1.2, 0.6, ROOM)
    lines = [curve(places[u], places[v], 0.0) for u, v in graph.edges]
    sides, boxes = place_names(places, np.concatenate([*lines, np.zeros((0, 2))]), np.full((len(graph), 2), 0.3), 0.1)
    assert (abs(sides).max(1) == 1).all()
    for i, (low, high) in enumerate(boxes):
        assert not ((low < places) & (places < high)).all(-1).any()
        for other_low, other_high in boxes[i + 1 :]:
            assert not ((low < other_high) & (other_low < high)).all()
