import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

import structlat as sl
from structlat import plot


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


@pytest.fixture
def post():
    """Two rows over three bits: three structures, out of order, and one with padding."""
    z = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 1, 1]], [[0, 0, 1], [0, 0, 1], [0, 0, 1]]])
    probs = torch.tensor([[0.2, 0.7, 0.1], [1.0, 0, 0]], requires_grad=True)
    return sl.SparseDistribution(sl.BitVector(3), z, probs)


def drawn(figure):
    """Title and image of each structure, in order."""
    axes = [ax for ax in figure.axes if ax.images]
    return [ax.get_title() for ax in axes], [np.asarray(ax.images[0].get_array()) for ax in axes]


def test_most_probable_first_with_their_probabilities(post):
    figure = plot.distribution(post)
    assert isinstance(figure, Figure)
    titles, images = drawn(figure)
    assert titles == ["0.700", "0.200", "0.100"]
    assert [image.shape for image in images] == [(1, 3)] * 3
    np.testing.assert_array_equal(np.concatenate(images), [[0, 1, 0], [1, 0, 0], [1, 1, 1]])


def test_padding_is_not_drawn(post):
    assert drawn(plot.distribution(post, row=1))[0] == ["1.000"]


def test_what_is_left_out_is_said(post):
    figure = plot.distribution(post, limit=2)
    assert drawn(figure)[0] == ["0.700", "0.200"]
    assert "and 1 more,\n0.100 in total" in [ax.get_xlabel() for ax in figure.axes]


def test_shape(post):
    _, images = drawn(plot.distribution(post, shape=(3, 1)))
    assert images[0].shape == (3, 1)


def test_axes_of_the_caller_in_a_subfigure(post):
    below = pyplot.figure().subfigures(2, 1)[1]
    axes = list(below.subplots(1, 4))
    assert plot.distribution(post, axes=axes) is below
    assert [ax.get_title() for ax in axes] == ["0.700", "0.200", "0.100", ""]
    assert not axes[3].axison


def test_fewer_axes_than_structures(post):
    axes = list(pyplot.figure().subplots(1, 2))
    plot.distribution(post, axes=axes)
    assert [ax.get_title() for ax in axes] == ["0.700", "0.200"]


@pytest.mark.parametrize(
    ("structure", "size"),
    [(sl.Categorical(4), (1, 4)), (sl.LinearChain(3, 2), (3, 2)), (sl.BipartiteMatching(2, 3), (2, 3))],
)
def test_a_shape_draws_vertices_whatever_the_structure(structure, size, generator):
    def random(shape):
        return torch.randn(2, 3, *shape, generator=generator)

    post = sl.sparsemap(structure, random(structure.shape), *(random(shape) for shape in structure.extra_shapes))
    _, images = drawn(plot.distribution(post, row=5, shape=size))
    z = post.mode[1, 2]
    np.testing.assert_array_equal(images[0], structure.vertex(z).reshape(size).numpy())


def test_no_batch_dimension_and_half_precision():
    post = sl.topk_sparsemax(sl.BitVector(8), torch.zeros(8, dtype=torch.float16), k=7)
    titles, _ = drawn(plot.distribution(post, shape=(2, 4)))
    assert titles == ["0.143"] * 7


def test_it_can_be_saved(post, tmp_path):
    plot.distribution(post).savefig(tmp_path / "picture.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"row": 2}, "row: got 2; expected one of the 2 rows"),
        ({"row": -1}, "row: got -1"),
        ({"row": 0.0}, "row: got 0.0"),
        ({"shape": (2, 2)}, r"shape: got \(2, 2\); expected a height and a width whose product is 3"),
        ({"shape": (3,)}, r"shape: got \(3,\)"),
        ({"shape": (-1, -3)}, r"shape: got \(-1, -3\)"),
        ({"limit": 0}, "limit: got 0; expected a number of at least 1"),
        ({"axes": []}, "axes: got 0; expected a number of at least 1"),
        ({"names": "ab"}, "names: got 'ab'; expected a sequence of 3 names, one for each bit"),
        ({"labels": ["on", "off"]}, "labels: got .*; the drawing of a BitVector has no place for labels"),
        ({"names": ["a", "b", "c"], "shape": (3, 1)}, "names: got .* beside a shape"),
    ],
)
def test_errors_name_argument_and_what_was_expected(post, arguments, words):
    with pytest.raises(sl.ArgumentError, match=words):
        plot.distribution(post, **arguments)


def test_vertices_of_three_dimensions_need_a_shape():
    class Cube(sl.Structure):
        shape = torch.Size([2, 2, 2])

        def argmax(self, scores):
            return (scores > 0).to(scores.dtype)

    post = sl.sparsemap(Cube(), torch.ones(1, 2, 2, 2))
    with pytest.raises(sl.ArgumentError, match=r"shape: got None; .* vertices of shape \(2, 2, 2\)"):
        plot.distribution(post)
    assert drawn(plot.distribution(post, shape=(2, 4)))[1][0].shape == (2, 4)


def test_without_matplotlib_the_library_imports_and_the_error_says_what_to_install():
    code = """
import sys
sys.modules["matplotlib"] = None  # as if it were not installed
import torch
import structlat as sl
from structlat import plot
try:
    plot.distribution(sl.sparsemap(sl.BitVector(2), torch.zeros(2)))
except ImportError as error:
    assert "pip install structlat[examples]" in str(error), error
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
