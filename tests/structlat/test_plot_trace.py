import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

import structlat as sl
from structlat import plot
from structlat.solvers.info import SolverInfo, Trace


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


def info(gap, size, converged):
    """From histories [iterations, *batch] with NaN and 0 where a row has finished."""
    gap = torch.tensor(gap, dtype=torch.float64)
    rounds = (~torch.isnan(gap)).sum(0)
    converged = torch.tensor(converged)
    last = gap.gather(0, (rounds - 1).unsqueeze(0)).squeeze(0)
    return SolverInfo(last, rounds, rounds + 1, converged, converged, Trace(gap, torch.tensor(size)))


NAN = float("nan")
FAST = info([[1.0, 4.0, 3.0], [0.1, 1e-9, 0.2], [1e-9, NAN, 0.0]], [[1, 1, 1], [2, 2, 2], [3, 0, 4]], [True] * 3)
SLOW = info([[1.0, 1.0, 1.0]] + 59 * [[0.5, 0.25, 1.0]], 60 * [[1, 2, 3]], [False, False, True])


def curves(ax):
    """By name: x and y of each labelled line; and the marks, in order."""
    lines = {line.get_label(): line.get_xydata().T for line in ax.lines if not line.get_label().startswith("_")}
    marks = [
        (line.get_marker(), *line.get_xydata()[0].tolist()) for line in ax.lines if line.get_marker() in ("o", "X")
    ]
    return lines, marks


def test_medians_with_finished_rows_as_they_ended():
    figure = plot.trace({"fast": FAST})
    assert isinstance(figure, Figure)
    gap, size = figure.axes
    lines, marks = curves(gap)
    np.testing.assert_array_equal(lines["fast"], [[1, 2, 3], [3.0, 0.1, 1e-9]])
    assert marks == [("o", 3.0, 1e-9)]  # two of three had converged
    assert gap.get_yscale() == "log"
    assert gap.get_xscale() == "linear"
    lines, _ = curves(size)
    np.testing.assert_array_equal(lines["fast"], [[1, 2, 3], [1, 2, 3]])
    assert (size.get_yscale(), size.get_ylim()[0]) == ("linear", 0)


def test_one_row_ends_where_it_ended():
    lines, marks = curves(plot.trace({"fast": FAST}, row=1).axes[0])
    np.testing.assert_array_equal(lines["fast"], [[1, 2], [4.0, 1e-9]])
    assert marks == [("o", 2.0, 1e-9)]


def test_a_gap_of_zero_is_drawn_on_the_floor():
    lines, _ = curves(plot.trace({"fast": FAST}, row=2).axes[0])
    assert lines["fast"][1, -1] == 1e-17


def test_a_dot_is_where_the_answer_is():
    """A corrective step after the last iteration left less than that had."""
    better = FAST.map(lambda x: x)
    better = SolverInfo(0 * FAST.gap + 1e-12, *list(vars(better).values())[1:])
    assert curves(plot.trace({"better": better}).axes[0])[1] == [("o", 3.0, 1e-12)]


def test_several_solvers_of_which_some_did_not_converge():
    figure = plot.trace({"fast": FAST, "slow": SLOW})
    lines, marks = curves(figure.axes[0])
    assert list(lines) == ["fast", "slow"]
    assert marks[1:] == [("X", 60.0, 0.5)]
    assert figure.axes[0].get_xscale() == "log"  # 3 against 60 iterations
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["fast", "slow"]
    assert curves(plot.trace({"slow": SLOW}, row=2).axes[0])[1] == [("o", 60.0, 1.0)]


def test_axes_of_the_caller_in_a_subfigure():
    below = pyplot.figure().subfigures(2, 1)[1]
    one, two = below.subplots(1, 2)
    assert plot.trace({"fast": FAST}, axes=[one, two]) is below
    assert set(curves(one)[0]) == set(curves(two)[0]) == {"fast"}
    assert two.get_xlabel() == "iteration"
    alone = pyplot.figure().subplots()
    plot.trace({"fast": FAST}, axes=[alone])
    assert (alone.get_xlabel(), alone.get_ylabel()) == ("iteration", "duality gap")


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_answers_of_sparsemap(batch, generator, tmp_path):
    post = sl.sparsemap(sl.BitVector(8), torch.randn(*batch, 8, generator=generator), solver="active_set", trace=True)
    figure = plot.trace({"a distribution": post, "its info": post.info})
    lines, _ = curves(figure.axes[0])
    np.testing.assert_array_equal(lines["a distribution"], lines["its info"])
    assert lines["its info"].shape[1] == int(post.info.iterations.max())
    figure.savefig(tmp_path / "picture.png")


def test_errors_say_what_is_wrong(generator):
    bits = sl.BitVector(3)
    scores = torch.randn(2, 3, generator=generator)
    without = sl.sparsemap(bits, scores, solver="active_set")
    empty = sl.sparsemap(bits, scores[:0], solver="active_set", trace=True)
    for arguments, words in (
        (({},), "infos: got an empty mapping; expected a mapping of names"),
        ((FAST,), "infos: got SolverInfo; expected a mapping of names"),
        (({"a": 3},), r"infos\['a'\]: got int; expected a SparseDistribution or its info"),
        (({"a": without},), r"infos\['a'\]: has no trace; pass trace=True"),
        (({"a": empty},), r"infos\['a'\]: (has no trace|its trace is empty)"),
        (({"a": FAST}, 3), r"row: got 3; expected one of the 3 rows of the flattened batch of infos\['a'\]"),
        (({"a": FAST}, -1), "row: got -1"),
        (({"a": FAST}, True), "row: got True"),
        (({"a": FAST}, None, []), "axes: got 0; expected one, for the gap, or two"),
        (({"a": FAST}, None, list(pyplot.figure().subplots(1, 3))), "axes: got 3"),
    ):
        with pytest.raises(sl.ArgumentError, match=words):
            plot.trace(*arguments)
