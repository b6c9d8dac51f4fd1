import itertools
import math

import pytest
import torch

import structlat as sl
from tests.structlat.structures.padding import check_padded
from tests.structure_tests import StructureTests


class TestKnapsack(StructureTests):
    cases = (sl.Knapsack([3], 2), sl.Knapsack([0, 0], 0), sl.Knapsack([1, 2, 3, 0], 3), sl.Knapsack([2, 2, 3, 4], 6))
    counts = (1, 4, 10, sum(sum(c) <= 6 for n in range(5) for c in itertools.combinations([2, 2, 3, 4], n)))


def test_with_costs_of_one_it_is_a_budget(generator):
    x = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    one = sl.sparsemap(sl.Knapsack([1] * 9, 3), x)
    other = sl.sparsemap(sl.BudgetBitVector(9, 3, symmetric=False), x)
    torch.testing.assert_close(one.mean, other.mean, atol=1e-8, rtol=0)
    assert sl.Knapsack([1] * 30, 7).cardinality() == sum(math.comb(30, m) for m in range(8))


def test_a_padded_batch_is_each_example_alone(generator):
    costs, lengths = [2, 1, 3, 2], [4, 2, 1]
    big = sl.Knapsack(costs, 4)
    check_padded(
        generator,
        big,
        [torch.randn(3, 4, generator=generator, dtype=torch.float64)],
        lambda x: [big.mask(x, lengths=torch.tensor(lengths))],
        lambda row: sl.Knapsack(costs[: lengths[row]], 4),
        lambda row, x, n: x[row, : lengths[row]],
    )


def test_large_costs_take_only_the_states_that_are_reached():
    space = sl.Knapsack([10**9, 2 * 10**9, 3 * 10**9], 3 * 10**9)
    assert space.cardinality() == 5
    assert space.graph.nodes < 20


@pytest.mark.parametrize(
    ("costs", "capacity", "text"),
    [
        ([1, -1], 3, r"costs\[1\]: got -1"),
        ([1.5], 3, r"costs\[0\]: got 1.5"),
        ([], 3, r"costs: got \[\]"),
        ([[1]], 3, r"costs: got \[\[1\]\]"),
        ([1], -1, "capacity: got -1"),
    ],
)
def test_what_is_refused(costs, capacity, text):
    with pytest.raises(sl.ArgumentError, match=text):
        sl.Knapsack(costs, capacity)
    assert repr(sl.Knapsack(torch.tensor([1, 2]), 3)) == "Knapsack([1, 2], 3)"


def test_an_empty_batch_is_contained():
    space = sl.Knapsack([1, 2], 2)
    assert space.contains(torch.zeros(0, 2)).shape == (0,)
    assert sl.Gibbs(space, torch.zeros(0, 2)).log_prob(torch.zeros(0, 2)).shape == (0,)
