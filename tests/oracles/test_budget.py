import math
from itertools import product

import numpy as np
import pytest

from oracles import budget, partition
from tests.oracles.brute_force import Judge, check_inputs, check_prefix, distinct, instances

SPACES = [(n, m, exact) for n in (1, 2, 3, 5) for m in range(n + 1) for exact in (False, True)]


def every(n, m, exact):
    return [z for z in product([False, True], repeat=n) if (sum(z) == m if exact else sum(z) <= m)]


@pytest.mark.parametrize(("n", "m", "exact"), SPACES)
def test_against_enumeration(n, m, exact):
    structures = every(n, m, exact)
    judge, scores = Judge(structures, structures), instances(n, (n,))
    z = budget.argmax(scores, m, exact)
    assert z.dtype == bool
    judge.check_argmax(z, scores)
    for k in range(1, len(structures) + 3):
        z, valid = budget.topk(scores, k, m, exact)
        assert z.dtype == bool
        judge.check_topk(z, valid, scores, k)


@pytest.mark.parametrize(("n", "m", "exact"), SPACES)
def test_enumerate_and_cardinality(n, m, exact):
    found, wanted = budget.enumerate(n, m, exact), every(n, m, exact)
    assert found.dtype == bool
    assert found.shape == (len(wanted), n)
    assert {tuple(z) for z in found.tolist()} == set(wanted)
    assert budget.cardinality(n, m, exact) == len(wanted)


def test_known_counts():
    assert budget.cardinality(100, 50, exact=True) == math.comb(100, 50)
    assert budget.cardinality(100, 100, exact=False) == 2**100
    assert budget.enumerate(3, 2, exact=True).astype(int).tolist() == [[1, 1, 0], [1, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("k", [1, 4, 40])
def test_inputs(k, exact):
    check_inputs(lambda s: budget.argmax(s, 3, exact), lambda s: budget.topk(s, k, 3, exact), instances(0, (5,)))


def test_rows_without_enough_allowed_bits_are_infeasible():
    scores = np.array([[1.0, -np.inf, -np.inf], [1.0, 2.0, -np.inf]])
    z, valid = budget.topk(scores, 2, 2, exact=True)
    assert valid.tolist() == [[False, False], [True, False]]
    assert z[1, 0].tolist() == [True, True, False]
    assert np.where(budget.argmax(scores, 2, exact=True), scores, 0).sum(axis=1).tolist() == [-np.inf, 3.0]
    assert budget.topk(scores, 9, 2, exact=False)[1].sum(axis=1).tolist() == [2, 4]


@pytest.mark.parametrize("exact", [False, True])
def test_a_budget_a_row_is_a_loop_over_rows(exact):
    scores = instances(1, (5,))
    budgets = np.arange(len(scores)) % 6
    z, (best, valid) = budget.argmax(scores, budgets, exact), budget.topk(scores, 7, budgets, exact)
    for b, m in enumerate(budgets.tolist()):
        np.testing.assert_array_equal(z[b], budget.argmax(scores[b : b + 1], m, exact)[0])
        for got, want in zip((best[b], valid[b]), budget.topk(scores[b : b + 1], 7, m, exact), strict=True):
            np.testing.assert_array_equal(got, want[0])
    assert budget.argmax(scores[:0], budgets[:0], exact).shape == (0, 5)


@pytest.mark.parametrize("budgets", [[0], [2, 2], [1, 3], [3, 0, 3], [5]])
@pytest.mark.parametrize("exact", [False, True])
def test_a_budget_a_row_lists_the_union_over_rows(budgets, exact):
    wanted = {z for m in budgets for z in every(5, m, exact)}
    found = budget.enumerate(5, np.array(budgets), exact)
    assert {tuple(z) for z in found.tolist()} == wanted
    assert len(found) == budget.cardinality(5, np.array(budgets), exact) == len(wanted)


def test_the_lower_index_wins_ties():
    assert budget.argmax(np.ones((1, 4)), 2, exact=False).tolist() == [[True, True, False, False]]
    assert budget.argmax(np.array([[0.0, 3, 1, 3, 3]]), 2, exact=True).tolist() == [[False, True, False, True, False]]
    assert not budget.argmax(np.zeros((1, 4)), 2, exact=False).any()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("m", [0, 1, 20, 39, 40])
def test_against_lawlers_partition(m, exact):
    scores = np.random.default_rng(m).normal(size=(2, 40))

    def solve(on, off, row):
        z = budget.argmax(partition.restrict(scores[row], (), on, off)[0], m, exact)
        total = np.where(z, scores[row], 0).sum(axis=1)
        return z, z, np.where((z & off).any(axis=1), -np.inf, total)

    z, valid = budget.topk(scores, 30, m, exact)
    other, other_valid, _ = partition.kbest(solve, 2, 40, 30, antichain=exact)
    np.testing.assert_array_equal(valid, other_valid)
    np.testing.assert_array_equal(z, other)


@pytest.mark.parametrize(("m", "exact"), [(300, False), (300, True), (600, False), (5, True)])
def test_large(m, exact):
    scores = np.random.default_rng(0).normal(size=(2, 600))
    check_prefix(
        lambda k: budget.topk(scores, k, m, exact),
        lambda z: (z * scores[:, None]).sum(2),
        [1, 2, 99, 100, 400],
    )
    z, _ = budget.topk(scores, 400, m, exact)
    assert distinct(z)
    sizes = z.sum(axis=2)
    assert (sizes == m).all() if exact else (sizes <= m).all()
    np.testing.assert_array_equal(z[:, 0], budget.argmax(scores, m, exact))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: budget.argmax(np.zeros((2, 3)), -1, exact=True), r"budget is -1, expected in 0\.\.3"),
        (lambda: budget.topk(np.zeros((2, 3)), 1, 4, exact=False), r"budget is 4, expected in 0\.\.3"),
        (lambda: budget.topk(np.zeros((2, 3)), 0, 1, exact=False), "k is 0"),
        (lambda: budget.argmax(np.zeros(3), 1, exact=True), r"scores has shape \(3,\)"),
        (lambda: budget.argmax(np.zeros((2, 3)), np.array([1, 4]), exact=True), r"budget is 4, expected in 0\.\.3"),
        (lambda: budget.topk(np.zeros((2, 3)), 1, np.array([1]), exact=True), r"budget has dtype int64 and shape \(1,"),
        (lambda: budget.cardinality(3, np.array([0.5]), exact=True), "budget has dtype float64"),
        (lambda: budget.enumerate(3, 4, exact=True), "budget is 4"),
        (lambda: budget.cardinality(3, -1, exact=True), "budget is -1"),
        (lambda: budget.cardinality(0, 0, exact=True), "n is 0"),
    ],
)
def test_nonsense(call, message):
    with pytest.raises(ValueError, match=message):
        call()
