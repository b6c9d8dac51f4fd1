import math

import pytest
import torch

import structlat as sl
from tests.judge import enumerated_sparsemap
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
