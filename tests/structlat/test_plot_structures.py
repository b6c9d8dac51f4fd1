"""What a drawing puts on the axes is what z says, read back from lines, bars and texts."""

import random

import networkx
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import structlat as sl
from structlat import plot
from structlat.plot.drawings.names import LABELS, ON
from structlat.structures.logic import Or, Pair

CITIES = [("Ulm", "Rome"), ("Rome", "Oslo"), ("Oslo", "Ulm"), ("Oslo", "Nice"), ("Nice", "Rome")]
DAG = networkx.DiGraph([("s", "a"), ("s", "b"), ("a", "b"), ("a", "t"), ("b", "t"), ("s", "t")])
SPACES = [
    sl.Categorical(3),
    sl.BitVector(3),
    sl.BudgetBitVector(4, 2),
    sl.BudgetBitVector(3, torch.tensor([1, 2])),
    Or(3),
    Pair(),
    sl.Knapsack([2, 1, 3], 4),
    sl.LinearChain(3, 2),
    sl.SemiMarkov(4, 2, 3),
    sl.Alignment(3, 4),
    sl.Alignment(2, 3, many_to_one=True),
    sl.DependencyTree(3),
    sl.DependencyTree(3, projective=False, multi_root=False),
    sl.BinaryTree(4),
    sl.BinaryTree(2, 2),
    sl.SpanningTree(networkx.Graph(CITIES)),
    sl.GeneralMatching(networkx.Graph(CITIES)),
    sl.ShortestPath(DAG, "s", "t"),
    sl.BipartiteMatching(2, 3, partial=True),
    sl.Permutation(3),
    sl.Product(sl.LinearChain(2, 2), sl.BitVector(2, symmetric=False)),
    sl.Product(sl.BinaryTree(2), sl.DependencyTree(2)),
    sl.Restricted(sl.BipartiteMatching(3, 2), on=torch.tensor([[True, False], [False, False], [False, False]])),
    *(
        space(n)
        for n in (1,)
        for space in (sl.Categorical, sl.BitVector, sl.DependencyTree, sl.BinaryTree, sl.Permutation)
    ),
]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


def axes_of(space, z, **named):
    figure = plot.structure(torch.as_tensor(z), space, **named)
    assert isinstance(figure, Figure)
    return figure.axes[0]


def words(ax):
    """The texts in the axes, in the order in which they were drawn."""
    return [text.get_text() for text in ax.texts]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def bars(ax):
    """From where to where each bar goes, and its colour."""
    extents = [collection.get_paths()[0].get_extents() for collection in ax.collections]
    colours = [to_hex(collection.get_facecolor()[0]) for collection in ax.collections]
    return [(box.x0, box.x1) for box in extents], colours


def lines(ax):
    """Points of each line that is no mere marker."""
    return [np.column_stack(line.get_data()) for line in ax.lines if line.get_linestyle() != "None"]


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_every_structure_is_drawn_without_chance(space):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    for z in space.enumerate()[:30:10]:
        ax = axes_of(space, z)
        assert ax.lines or ax.collections or ax.images or ax.patches or ax.child_axes
    rows = space.own_extra[0].shape[:-1] if space.own_extra else ()
    post = sl.topk_sparsemax(
        space, torch.zeros(*rows, *space.shape), *(torch.zeros(shape) for shape in extra(space)), k=3
    )
    figure = plot.distribution(post)
    p = post.probs.reshape(-1, post.probs.shape[-1])[0]
    assert [ax.get_title() for ax in figure.axes if ax.axison] == [f"{x:.3f}" for x in p[p > 0].tolist()]
    figure.draw_without_rendering()  # no warning of a layout that does not fit
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002


def extra(space):
    """Shapes of the extra scores that a caller gives."""
    return space.extra_shapes[: len(space.extra_shapes) - len(space.own_extra)]


@pytest.mark.parametrize("space", [sl.BitVector(4), sl.BudgetBitVector(4, 2), Or(4)], ids=repr)
def test_bits_are_dark_where_they_are_on_over_their_names(space):
    ax = axes_of(space, [0.0, 1, 1, 0], names=["a", "b", "c", "d"])
    np.testing.assert_array_equal(ax.images[0].get_array(), [[0, 1, 1, 0]])
    assert ticks(ax.xaxis) == ["a", "b", "c", "d"]


def test_a_knapsack_shows_costs():
    ax = axes_of(sl.Knapsack([20, 10, 30], 40), [0.0, 1, 1])
    np.testing.assert_array_equal(ax.images[0].get_array(), [[0, 1, 1]])
    assert words(ax) == ["20", "10", "30"]
    assert [text.get_color() == "white" for text in ax.texts] == [False, True, True]


def test_a_categorical_names_the_chosen_one():
    ax = axes_of(sl.Categorical(3), 1, names=["cat", "dog", "fox"])
    np.testing.assert_array_equal(ax.images[0].get_array(), [[0, 1, 0]])
    assert ticks(ax.xaxis) == ["dog"]
    assert ax.get_xticks().tolist() == [1]
    assert ticks(axes_of(sl.Categorical(3), 2).xaxis) == ["2"]


def test_a_chain_is_a_row_of_labelled_cells():
    ax = axes_of(sl.LinearChain(4, 3), [2, 0, 0, 1], names=["so", "it", "goes", "on"], labels=["N", "V", "P"])
    extents, colours = bars(ax)
    np.testing.assert_allclose(np.mean(extents, 1), [0.5, 1.5, 2.5, 3.5])
    assert colours == [LABELS[2], LABELS[0], LABELS[0], LABELS[1]]
    assert words(ax) == ["P", "N", "N", "V"]
    assert ticks(ax.xaxis) == ["so", "it", "goes", "on"]


def test_a_chain_too_long_for_its_labels_names_runs():
    z = [0] * 20 + [1] * 20 + [0] * 20
    ax = axes_of(sl.LinearChain(60, 2), z, labels=["background", "foreground"])
    assert bars(ax)[0] == [(0, 20), (20, 40), (40, 60)]
    assert words(ax) == ["background", "foreground", "background"]


def test_segments_cover_their_positions():
    space = sl.SemiMarkov(6, 2, 3)
    z = torch.zeros(space.shape)
    for start, length, label in ((0, 2, 1), (2, 1, 0), (3, 3, 1)):
        z[start, length - 1, label] = 1
    ax = axes_of(space, z, names=list("abcdef"), labels=["x", "y"])
    extents, colours = bars(ax)
    np.testing.assert_allclose(extents, [(0, 2), (2, 3), (3, 6)], atol=0.1)
    assert colours == [LABELS[1], LABELS[0], LABELS[1]]
    assert words(ax) == ["y", "x", "y"]
    assert ticks(ax.xaxis) == list("abcdef")


def test_an_alignment_is_its_path():
    space = sl.Alignment(3, 4)
    z = torch.zeros(space.shape)
    for i, j, step in ((0, 1, 2), (1, 2, 0), (2, 2, 1), (2, 3, 2)):
        z[i, j, step] = 1
    ax = axes_of(space, z, names=["a", "b", "c"], labels=["u", "v", "w", "x"])
    (path,) = (line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_array_equal(np.column_stack(path.get_data()), [(0, 0), (1, 0), (2, 1), (2, 2), (3, 2)])
    assert ticks(ax.yaxis) == ["a", "b", "c"]
    assert ticks(ax.xaxis) == ["u", "v", "w", "x"]


@pytest.mark.parametrize("heads", [[2, 0, 2, 5, 2], [0, 0, 4, 5, 0], [3, 5, 0, 3, 4]])
def test_each_word_has_one_arc_from_its_head(heads):
    ax = axes_of(sl.DependencyTree(5, projective=False), heads, names=["it", "is", "a", "small", "telescope"])
    assert ticks(ax.xaxis) == ["it", "is", "a", "small", "telescope"]
    place = ax.get_xticks()
    assert len(lines(ax)) == 5
    for word, (arc, head) in enumerate(zip(lines(ax), heads, strict=True)):
        assert arc[-1 if head else 0] == pytest.approx((place[word], 0), abs=1e-9)
        if head:
            assert abs(place - arc[0, 0]).argmin() == head - 1
            assert arc[0, 1] == pytest.approx(0, abs=1e-9)
            assert arc[:, 1].max() < ax.get_ylim()[1]
        else:
            assert arc[1] == pytest.approx((place[word], ax.get_ylim()[1]))
    assert words(ax) == ["root"] * heads.count(0)


def test_arcs_of_a_projective_tree_lie_above_each_other():
    space = sl.DependencyTree(5)
    for z in space.enumerate()[::15]:
        arcs = [arc for arc in lines(axes_of(space, z)) if len(arc) > 2]
        for low in arcs:
            for high in arcs:
                if high[:, 0].min() <= low[:, 0].min() and low[:, 0].max() <= high[:, 0].max() and high is not low:
                    assert high[:, 1].max() > low[:, 1].max()


@pytest.mark.parametrize("labels", [1, 2])
def test_a_binary_tree_joins_the_parts_of_each_span(labels):
    space = sl.BinaryTree(5, labels)
    for z in space.topk(torch.randn(1, *space.shape, generator=torch.Generator().manual_seed(0)), k=12)[0][0]:
        ax = axes_of(space, z, names=list("abcde"), labels=["S", "VP"] if labels > 1 else None)
        children = {}
        for (x, y), child in lines(ax):
            children.setdefault((x, y), []).append(tuple(child))
        spans = [(i, j) for i, j, _ in z.nonzero().tolist()]
        tops = [max(children, key=lambda place: place[1])]
        assert sorted(leaves_below(tops[0], children)) == [0, 1, 2, 3, 4]
        found = [leaves_below(place, children) for place in children]
        assert sorted((min(span), max(span)) for span in found) == sorted((i, j) for i, j in spans if i < j)
        assert all(y > child[1] for (_, y), below in children.items() for child in below)
        assert ticks(ax.xaxis) == list("abcde")
        counts = z.sum((0, 1)).tolist()
        assert [words(ax).count(label) for label in ("S", "VP")] == ([0, 0] if labels == 1 else counts)


def leaves_below(place, children):
    return [x for child in children[place] for x in leaves_below(child, children)] if place in children else [place[0]]


@pytest.mark.parametrize(
    "space",
    [
        sl.SpanningTree(networkx.Graph(CITIES)),
        sl.GeneralMatching(networkx.Graph(CITIES)),
        sl.ShortestPath(DAG, "s", "t"),
    ],
    ids=repr,
)
def test_edges_of_the_structure_are_thick_and_nodes_have_names(space):
    seen = set()
    for z in space.enumerate():
        ax = axes_of(space, z)
        place = {text.get_text(): getattr(text, "xy", text.get_position()) for text in ax.texts}
        assert set(place) == {node for edge in space.edges for node in edge}
        thickest = max(patch.get_linewidth() for patch in ax.patches)
        for edge, patch, on in zip(space.edges, ax.patches, z.tolist(), strict=True):
            assert [tuple(end) for end in patch._posA_posB] == [place[node] for node in edge]
            assert (patch.get_linewidth() == thickest and to_hex(patch.get_edgecolor()) == ON) == bool(
                on
            ) or not z.any()
        on_nodes = {node for edge, on in zip(space.edges, z.tolist(), strict=True) if on for node in edge}
        dark = {tuple(np.ravel(line.get_data())) for line in ax.lines if line.get_color() == ON}
        assert dark == {tuple(place[node]) for node in on_nodes}
        seen.add(tuple(sorted(place.items())))
    assert len(seen) == 1  # all structures of a graph in one layout


def test_a_path_leads_to_the_right():
    space = sl.ShortestPath(DAG, "s", "t")
    ax = axes_of(space, space.enumerate()[0])
    assert all(patch._posA_posB[0][0] < patch._posA_posB[1][0] for patch in ax.patches)


def test_a_node_without_edges_is_drawn_too():
    graph = networkx.Graph([("a", "b")])
    graph.add_node("hermit")
    assert sorted(words(axes_of(sl.GeneralMatching(graph), [1.0]))) == ["a", "b", "hermit"]


@pytest.mark.parametrize("z", [[2, 0, -1], [-1, -1, -1], [1, 2, 0]])
def test_a_matching_joins_rows_with_columns(z):
    ax = axes_of(sl.BipartiteMatching(3, 4, partial=True), z, names=["a", "b", "c"], labels=["u", "v", "w", "x"])
    place = {text.get_text(): text.xy for text in ax.texts}
    assert list(place) == ["a", "b", "c", "u", "v", "w", "x"]
    pairs = {(tuple(start), tuple(end)) for start, end in lines(ax)}
    assert pairs == {(place["abc"[row]], place["uvwx"[col]]) for row, col in enumerate(z) if col >= 0}
    assert ax.yaxis_inverted()
    dark = {
        tuple(np.ravel(line.get_data())) for line in ax.lines if line.get_marker() == "o" and line.get_color() == ON
    }
    assert dark == {place for pair in pairs for place in pair}


@pytest.mark.parametrize(
    "members", [(sl.LinearChain(4, 2), sl.Categorical(3)), (sl.BinaryTree(3), sl.DependencyTree(2))]
)
def test_members_of_a_product_are_drawn_in_their_own_way(members):
    space = sl.Product(*members)
    z = space.enumerate()[-1]
    insets = axes_of(space, z).child_axes
    assert len(insets) == 2
    for inset, member, part in zip(insets, members, space.split(z), strict=True):
        alone = axes_of(member, part)
        assert words(inset) == words(alone)
        assert ticks(inset.xaxis) == ticks(alone.xaxis)
        assert len(inset.lines) == len(alone.lines)
        assert len(inset.collections) == len(alone.collections)
    boxes = [inset.get_window_extent() for inset in insets]
    assert not boxes[0].overlaps(boxes[1])


def test_a_restricted_space_is_drawn_as_the_whole():
    on = torch.zeros(3, 2, dtype=torch.bool)
    on[0, 1] = True
    ax = axes_of(sl.Restricted(sl.LinearChain(3, 2), on=on), [1, 0, 0], names=["x", "y", "z"], labels=["no", "yes"])
    assert words(ax) == ["yes", "no", "no"]
    assert ticks(ax.xaxis) == ["x", "y", "z"]


def test_a_support_is_drawn_in_the_way_of_its_space():
    space = sl.LinearChain(3, 2)
    post = sl.SparseDistribution(space, torch.tensor([[0, 1, 1], [1, 1, 0]]), torch.tensor([0.25, 0.75]))
    figure = plot.distribution(post, labels=["no", "yes"])
    assert [ax.get_title() for ax in figure.axes] == ["0.750", "0.250"]
    assert [words(ax) for ax in figure.axes] == [["yes", "yes", "no"], ["no", "yes", "yes"]]
