import networkx
import numpy as np
import pytest
import torch
from matplotlib import pyplot

import structlat as sl
from structlat import plot


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


class Cube(sl.Structure):
    """A corner of a cube, which has neither a drawing nor a vertex that is an image."""

    shape = torch.Size([2, 2, 2])
    antichain = True

    def argmax(self, scores):
        return torch.eye(8, dtype=scores.dtype)[scores.flatten(1).argmax(-1)].reshape(-1, 2, 2, 2)


def test_without_a_space_z_is_an_image():
    (ax,) = plot.structure(torch.tensor([[0, 1], [2, 0]])).axes
    np.testing.assert_array_equal(ax.images[0].get_array(), [[0, 1], [2, 0]])
    assert ax.images[0].get_clim()[1] > 2  # labels are told apart
    (ax,) = plot.structure(torch.tensor([True, False, True])).axes
    np.testing.assert_array_equal(ax.images[0].get_array(), [[1, 0, 1]])
    (ax,) = plot.structure(torch.tensor(0.0)).axes
    assert ax.images[0].get_array().shape == (1, 1)


def test_a_space_without_a_drawing_is_drawn_by_its_vertex():
    space = sl.Structure.from_argmax(lambda s: np.eye(3)[np.argmax(s)], 3)
    (ax,) = plot.structure(torch.tensor([0.0, 1, 0]), space).axes
    np.testing.assert_array_equal(ax.images[0].get_array(), [[0, 1, 0]])


def test_on_axes_of_the_caller_in_a_subfigure():
    above, below = pyplot.figure().subfigures(2, 1)
    ax = below.subplots()
    ax.set_title("the caller's")
    assert plot.structure(torch.tensor([1, 0]), sl.LinearChain(2, 2), ax) is below
    assert len(ax.collections) == 2
    assert ax.get_title() == "the caller's"
    assert not above.axes


def test_z_may_have_a_graph_and_half_precision():
    z = torch.tensor([1.0, 0.0], dtype=torch.float16, requires_grad=True)
    (ax,) = plot.structure(z, sl.BitVector(2)).axes
    np.testing.assert_array_equal(ax.images[0].get_array(), [[1, 0]])


def test_a_registered_drawing_is_used_for_a_space_and_those_derived_from_it():
    class Corner(Cube):
        pass

    class Derived(Corner):
        pass

    @plot.draw.register(Corner)
    def draw_corner(space, z, ax, names=None):
        ax.plot(*z.nonzero()[0, :2].tolist(), "o", label=type(space).__name__)
        for name in names or ():
            ax.text(0, 0, name)

    for space in (Corner(), Derived()):
        z = torch.eye(8)[:2].reshape(2, 2, 2, 2)
        (ax,) = plot.structure(z[1], space, names=["here"]).axes
        assert [line.get_label() for line in ax.lines] == [type(space).__name__]
        assert [text.get_text() for text in ax.texts] == ["here"]
        post = sl.SparseDistribution(space, z, torch.tensor([0.5, 0.5]))
        assert [len(ax.lines) for ax in plot.distribution(post).axes] == [1, 1]
        assert not plot.distribution(post, shape=(2, 4)).axes[0].lines
        with pytest.raises(sl.ArgumentError, match=r"labels: got .*; the drawing of a .* has no place for labels"):
            plot.structure(z[0], space, labels=["nowhere"])
    member = plot.structure(
        torch.tensor([1.0] + [0] * 7 + [1, 0]), sl.Product(Corner(), Cube.from_argmax(lambda s: s, 2))
    )
    assert [len(inset.lines) for inset in member.axes[0].child_axes] == [1, 0]


@pytest.mark.parametrize(
    ("z", "space", "named", "words"),
    [
        (torch.zeros(2, 2, 2), None, {}, r"z: got shape \(2, 2, 2\); expected a tensor of at most two dimensions"),
        (torch.zeros(0), None, {}, r"z: got shape \(0,\)"),
        ([0, 1], None, {}, "z: got list"),
        (torch.zeros(2), None, {"names": ["a", "b"]}, r"names: got \['a', 'b'\] without a space"),
        (torch.zeros(2), "bits", {}, "space: got 'bits'; expected a structlat.Structure"),
        (torch.zeros(3), sl.BitVector(2), {}, r"z: got shape \(3,\); BitVector\(2.* expects a tensor"),
        ([0.0, 1.0], sl.BitVector(2), {}, "z: got list"),
        (torch.zeros(5, 2), sl.BitVector(2), {}, r"z: got shape \(5, 2\); expected one structure \(2,\) of BitVector"),
        (torch.tensor([0.5, 1]), sl.BitVector(2), {}, r"z: got \[0.5, 1.0\]; expected a structure of BitVector"),
        (torch.tensor([2, 1]), sl.DependencyTree(2), {}, r"z: got \[2, 1\]; expected a structure of DependencyTree"),
        (torch.zeros(2, 2, 2), Cube(), {}, r"space: got .*Cube.*, whose vertices \(2, 2, 2\) are no images"),
        (torch.tensor(1), sl.Categorical(2), {"names": ["a"]}, r"names: got \['a'\]; .* 2 names, one for each label"),
        (
            torch.tensor([0, 1]),
            sl.LinearChain(2, 2),
            {"names": "ab"},
            "names: got 'ab'; .* 2 names, one for each position",
        ),
        (torch.tensor([0, 1]), sl.LinearChain(2, 2), {"labels": ["a"]}, "labels: .* 2 names, one for each state"),
        (torch.tensor([0, 1]), sl.DependencyTree(2), {"names": [*"abc"]}, "names: .* 2 names, one for each word"),
        (torch.tensor([0, 1]), sl.DependencyTree(2), {"labels": [*"ab"]}, "labels: .* has no place for labels"),
        (torch.tensor([1.0]), sl.SpanningTree(networkx.Graph(["ab"])), {"names": [*"ab"]}, "names: .* has no place"),
        (torch.tensor([1, 0]), sl.BipartiteMatching(2, 2), {"names": [*"abc"]}, "names: .* 2 names, one for each row"),
        (
            torch.tensor([1, 0]),
            sl.BipartiteMatching(2, 2),
            {"labels": [*"abc"]},
            "labels: .* 2 names, one for each column",
        ),
        (torch.tensor([1.0, 0]), sl.Knapsack([1, 1], 1), {"names": [*"abc"]}, "names: .* 2 names, one for each item"),
        (torch.zeros(1, 1, 3), sl.Alignment(1, 1), {"names": [*"abc"]}, "names: .* 1 names, one for each row"),
        (torch.ones(1, 1, 1), sl.BinaryTree(1), {"names": [*"abc"]}, "names: .* 1 names, one for each leaf"),
        (torch.ones(1, 1, 1), sl.SemiMarkov(1, 1, 1), {"labels": [*"abc"]}, "labels: .* 1 names, one for each label"),
    ],
)
def test_errors_name_argument_and_what_was_expected(z, space, named, words):
    with pytest.raises(sl.ArgumentError, match=words):
        plot.structure(z, space, **named)
