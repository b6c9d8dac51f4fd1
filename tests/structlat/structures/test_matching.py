import math

import pytest
import torch

import structlat as sl
from tests.judge import enumerated_sparsemap
from tests.structlat.structures.padding import check_padded
from tests.structure_tests import StructureTests


class TestBipartiteMatching(StructureTests):
    cases = (
        sl.BipartiteMatching(1, 1),
        sl.BipartiteMatching(3, 3),
        sl.BipartiteMatching(2, 4),
        sl.BipartiteMatching(4, 2),
        sl.BipartiteMatching(2, 3, partial=True),
        sl.BipartiteMatching(3, 2, partial=True),
    )
    counts = (1, 6, 12, 12, 13, 13)


def test_marginals_are_doubly_stochastic(generator):
    post = sl.sparsemap(sl.BipartiteMatching(8, 8), torch.randn(5, 8, 8, generator=generator), on_failure="raise")
    torch.testing.assert_close(post.mean.sum(-1), torch.ones(5, 8))
    torch.testing.assert_close(post.mean.sum(-2), torch.ones(5, 8))


def test_sparsemap_is_the_projection_onto_doubly_stochastic_matrices(generator):
    """Dykstra's alternating projections find the same point, at a size that cannot be enumerated."""
    x = 2 * torch.randn(7, 7, generator=generator, dtype=torch.float64)
    post = sl.sparsemap(sl.BipartiteMatching(7, 7), x, on_failure="raise")
    y, p, q = x.clone(), torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(20000):
        rows = sl.sparsemax(y + p, -1)
        p = y + p - rows
        y = sl.sparsemax(rows + q, -2)
        q = rows + q - y
    assert (post.mean - y).abs().max() < 1e-6


def test_contains():
    z = torch.tensor([[0, 1], [1, 1], [2, 0], [-1, 0], [-2, 0], [3, 0]])
    assert sl.BipartiteMatching(2, 3).contains(z).tolist() == [True, False, True, False, False, False]
    assert sl.BipartiteMatching(2, 3, partial=True).contains(z).tolist() == [True, False, True, True, False, False]


def test_cardinality():
    assert sl.BipartiteMatching(20, 20).cardinality() == math.factorial(20)
    assert sl.BipartiteMatching(3, 30).cardinality() == 30 * 29 * 28


def test_empty_sizes_are_refused():
    with pytest.raises(sl.ArgumentError, match="rows: got 0"):
        sl.BipartiteMatching(0, 3)


def test_jacobian_at_zero_scores_is_not_a_kink():
    """All scores 0: the optimum is the centre, inside the polytope, and moves in all of its four dimensions."""
    x = torch.zeros(1, 3, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda y: sl.sparsemap(sl.BipartiteMatching(3, 3), y).mean, x)
    centring = torch.eye(3, dtype=torch.float64) - 1 / 3
    torch.testing.assert_close(jacobian.reshape(9, 9), torch.kron(centring, centring), atol=1e-9, rtol=0)
    assert (enumerated_sparsemap(sl.BipartiteMatching(3, 3), x) - 1 / 3).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("partial", "rows", "cols"),
    [
        (False, [4, 2, 1, 0], [5, 3, 2, 1]),  # the columns are the longer side, of the examples as of the padding
        (False, [4, 3, 3, 1], [4, 3, 4, 2]),
        (True, [4, 2, 3, 0], [5, 1, 4, 2]),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_padded_batch_is_each_example_alone(generator, partial, rows, cols, transposed):
    x = torch.randn(4, 4, 5, generator=generator, dtype=torch.float64)
    if transposed:
        x, rows, cols = x.mT, cols, rows
    space = sl.BipartiteMatching(*x.shape[1:], partial=partial)
    # an example without rows or columns has nothing to be compared with
    keep = [i for i in range(4) if rows[i] and cols[i]]
    x, rows, cols = x[keep], torch.tensor(rows)[keep], torch.tensor(cols)[keep]
    check_padded(
        generator,
        space,
        [x],
        lambda y: [space.mask(y, rows, cols)],
        lambda row: sl.BipartiteMatching(int(rows[row]), int(cols[row]), partial=partial),
        lambda row, y, n: y[row, : rows[row], : cols[row]],
    )
    z = sl.argmax(space, space.mask(x, rows, cols))
    small = [sl.BipartiteMatching(int(r), int(c), partial=partial) for r, c in zip(rows, cols, strict=True)]
    for i, one in enumerate(small):
        own = sl.argmax(one, x[i, : one.rows, : one.cols])
        assert z[i, : one.rows].tolist() == own.tolist()
        padding = range(space.rows - one.rows)
        assert z[i, one.rows :].tolist() == [
            -1 if partial or one.cols + j >= space.cols else one.cols + j for j in padding
        ]


def test_lengths_default_to_no_padding(generator):
    x = torch.randn(2, 3, 4, generator=generator)
    space = sl.BipartiteMatching(3, 4)
    assert torch.equal(space.mask(x), x)
    assert torch.equal(space.mask(x, cols=torch.tensor([4, 4])), x)
    empty = space.mask(x, torch.tensor(0), torch.tensor(0))
    assert torch.equal(sl.argmax(space, empty), torch.tensor([[0, 1, 2], [0, 1, 2]]))


def test_padding_that_would_leave_real_pairs_out_is_refused():
    """Two rows and no column of padding for an example with more columns than rows."""
    for space, sizes, text in (
        (sl.BipartiteMatching(4, 4), ([4, 2], [4, 3]), r"rows, cols: in row 1 \(1 of 2\) the longer side"),
        (sl.BipartiteMatching(3, 5), ([3, 3], [2, 5]), r"rows, cols: in row 0 \(1 of 2\) .* of 3 x 5 .*partial=True"),
    ):
        x = torch.zeros(2, *space.shape)
        with pytest.raises(sl.ArgumentError, match=text):
            space.mask(x, *map(torch.tensor, sizes))
        partial = sl.BipartiteMatching(space.rows, space.cols, partial=True)
        assert partial.mask(x, *map(torch.tensor, sizes)).shape == x.shape
    for lengths, text in (
        ({"rows": torch.tensor([4])}, r"rows: outside 0\.\.3"),
        ({"cols": torch.tensor([1.0])}, r"cols: got torch.float32"),
    ):
        with pytest.raises(sl.ArgumentError, match=text):
            sl.BipartiteMatching(3, 3).mask(torch.zeros(1, 3, 3), **lengths)


def test_sums_are_refused_with_the_reason():
    with pytest.raises(
        NotImplementedError, match=r"for its log-partition is a permanent, #P-hard to compute \(Valiant"
    ):
        sl.BipartiteMatching(2, 2).log_partition(torch.zeros(2, 2))
