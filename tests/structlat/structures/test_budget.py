import math

import pytest
import torch

import structlat as sl
from tests.structure_tests import StructureTests


class TestBudgetBitVector(StructureTests):
    cases = (
        sl.BudgetBitVector(1, 0),
        sl.BudgetBitVector(5, 2),
        sl.BudgetBitVector(5, 3, exact=True),
        sl.BudgetBitVector(4, 4, symmetric=False),
        sl.BudgetBitVector(4, 0, exact=True),
        sl.BudgetBitVector(6, 2, exact=True, symmetric=False),
    )
    counts = (1, 16, 10, 16, 1, 15)


@pytest.mark.parametrize("symmetric", [True, False])
def test_budget_n_is_no_budget(generator, symmetric):
    x = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    free = sl.sparsemap(sl.BitVector(9, symmetric), x, solver="active_set").mean
    bound = sl.sparsemap(sl.BudgetBitVector(9, 9, symmetric=symmetric), x, solver="active_set").mean
    torch.testing.assert_close(free, bound, atol=1e-7, rtol=0)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_marginals_of_many_bits_keep_the_budget(generator, exact, scale):
    x = scale * torch.randn(8, 64, generator=generator, dtype=torch.float64)
    post = sl.sparsemap(sl.BudgetBitVector(64, 20, exact=exact), x, on_failure="raise")
    ones = post.mean.sum(-1)
    assert (ones <= 20 + 1e-9).all()
    if exact:
        torch.testing.assert_close(ones, torch.full((8,), 20.0, dtype=torch.float64), atol=1e-9, rtol=0)
    # the optimum is clip((x - tau + 1) / 2, 0, 1), with tau = 0 where the budget does not bind
    for row in range(8):
        low, high = float(x[row].min()) - 2, float(x[row].max()) + 2
        for _ in range(200):
            tau = (low + high) / 2
            low, high = (tau, high) if ((x[row] - tau + 1) / 2).clamp(0, 1).sum() > 20 else (low, tau)
        tau = tau if exact else max(tau, 0.0)
        assert (post.mean[row] - ((x[row] - tau + 1) / 2).clamp(0, 1)).abs().max() < 1e-7


@pytest.mark.parametrize(("budget", "came"), [(-1, "-1"), (6, "6"), (1.5, "1.5")])
def test_budget_outside_is_refused(budget, came):
    with pytest.raises(sl.ArgumentError, match=rf"budget: got {came}"):
        sl.BudgetBitVector(5, budget)


def test_cardinality_is_exact_where_floats_are_not():
    assert sl.BudgetBitVector(1000, 500, exact=True).cardinality() == math.comb(1000, 500)
    assert sl.BudgetBitVector(200, 200).cardinality() == 2**200


def test_padding_repeats_a_structure_that_is_there():
    """Infeasible structures of an enumerated support have no place in it."""
    x = torch.tensor([[-torch.inf, 1, 1], [1, 1, 1]])
    post = sl.marginalize(sl.BudgetBitVector(3, 2, exact=True), x)
    assert post.mask.tolist() == [[True, False, False], [True, True, True]]
    assert post.structures[0].tolist() == [[0, 1, 1]] * 3


def test_all_bits_forbidden():
    x = torch.full((1, 4), -torch.inf)
    assert sl.sparsemap(sl.BudgetBitVector(4, 2), x).mean.tolist() == [[0, 0, 0, 0]]
    with pytest.raises(sl.InfeasibleError, match="row 0"):
        sl.sparsemap(sl.BudgetBitVector(4, 2, exact=True), x)
