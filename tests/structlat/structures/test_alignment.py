import math

import numpy as np
import pytest
import torch

import structlat as sl
from tests.structlat.structures.padding import check_padded
from tests.structure_tests import StructureTests


def delannoy(m, n):
    return sum(math.comb(m, k) * math.comb(n, k) * 2**k for k in range(min(m, n) + 1))


class TestAlignment(StructureTests):
    cases = (
        sl.Alignment(1, 1),
        sl.Alignment(1, 4),
        sl.Alignment(2, 3),
        sl.Alignment(3, 3),
        sl.Alignment(2, 4, many_to_one=True),
        sl.Alignment(3, 3, many_to_one=True),
    )
    counts = (1, 1, 5, 13, 3, 1)


def test_counts():
    assert sl.Alignment(6, 9).cardinality() == delannoy(5, 8)
    assert sl.Alignment(30, 30).cardinality() == delannoy(29, 29)
    assert sl.Alignment(5, 12, many_to_one=True).cardinality() == math.comb(11, 4)


def test_argmax_is_dynamic_time_warping(generator):
    """The textbook recursion, cell by cell."""
    x = torch.randn(3, 7, 5, 3, generator=generator, dtype=torch.float64)
    z = sl.argmax(sl.Alignment(7, 5), x)
    for row in range(3):
        best = np.full((7, 5), -np.inf)
        best[0, 0] = 0
        for i in range(7):
            for j in range(5):
                for step, (down, right) in enumerate([(1, 1), (1, 0), (0, 1)]):
                    if i >= down and j >= right:
                        best[i, j] = max(best[i, j], best[i - down, j - right] + float(x[row, i, j, step]))
        assert float((z[row] * x[row]).sum()) == pytest.approx(best[-1, -1])


def test_many_to_one_gives_each_column_one_row(generator):
    space = sl.Alignment(4, 9, many_to_one=True)
    z = sl.argmax(space, torch.randn(20, 4, 9, 3, generator=generator))
    entered = z.sum(-1)
    assert (entered[..., 1:].sum(-2) == 1).all()
    assert (z[..., 1] == 0).all()


@pytest.mark.parametrize("many_to_one", [False, True])
def test_a_padded_batch_is_each_example_alone(generator, many_to_one):
    big = sl.Alignment(4, 6, many_to_one)
    rows, cols = [4, 2, 1, 3], [6, 3, 1, 4]
    scores = torch.randn(4, 4, 6, 3, generator=generator, dtype=torch.float64)
    check_padded(
        generator,
        big,
        [scores],
        lambda x: [big.mask(x, rows=torch.tensor(rows), cols=torch.tensor(cols))],
        lambda row: sl.Alignment(rows[row], cols[row], many_to_one),
        lambda row, x, n: x[row, : rows[row], : cols[row]],
    )


def test_what_is_refused():
    with pytest.raises(sl.ArgumentError, match=r"cols: got 2; expected at least rows = 3"):
        sl.Alignment(3, 2, many_to_one=True)
    space = sl.Alignment(3, 4, many_to_one=True)
    with pytest.raises(sl.ArgumentError, match=r"rows, cols: in row 1 \(1 of 2\)"):
        space.mask(torch.zeros(2, 3, 4, 3), rows=torch.tensor([3, 1]), cols=torch.tensor([4, 3]))
    with pytest.raises(sl.ArgumentError, match=r"rows: outside 1\.\.3 in row 0"):
        sl.Alignment(3, 4).mask(torch.zeros(2, 3, 4, 3), rows=torch.tensor([0, 1]))
