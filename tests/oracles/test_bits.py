from itertools import product

import numpy as np
import pytest

from oracles import bits, partition
from tests.oracles.brute_force import Judge, check_inputs, check_prefix, distinct, instances


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_against_enumeration(n):
    every = list(product([False, True], repeat=n))
    judge, scores = Judge(every, every), instances(n, (n,))
    z = bits.argmax(scores)
    assert z.dtype == bool
    judge.check_argmax(z, scores)
    for k in range(1, 2**n + 3):
        z, valid = bits.topk(scores, k)
        assert z.dtype == bool
        judge.check_topk(z, valid, scores, k)


@pytest.mark.parametrize("k", [1, 4, 40])
def test_inputs(k):
    check_inputs(bits.argmax, lambda s: bits.topk(s, k), instances(0, (5,)))


def test_the_best_of_k_is_the_argmax():
    scores = instances(1, (6,))
    for k in (1, 2, 64):
        np.testing.assert_array_equal(bits.topk(scores, k)[0][:, 0], bits.argmax(scores))


def test_ties_flip_the_lower_index_first():
    z, _ = bits.topk(np.array([[1.0, -1.0, 1.0, -1.0]]), 3)
    assert z[0].tolist() == [
        [True, False, True, False],
        [False, False, True, False],
        [True, True, True, False],
    ]
    assert not bits.argmax(np.zeros((1, 3))).any()  # a score of 0 leaves a bit off
    order = [[], [0], [0, 1], [1], [0, 1, 2], [0, 2], [1, 2], [2]]  # the subset that was made first comes first
    assert [np.flatnonzero(row).tolist() for row in bits.topk(np.zeros((1, 3)), 8)[0][0]] == order


def test_a_forbidden_bit_is_never_on():
    scores = np.array([[-np.inf, 1e-3, -np.inf, -5.0]])
    z, valid = bits.topk(scores, 9)
    assert valid.sum() == 4
    assert not z[0, :, [0, 2]].any()


def test_more_than_512_bits():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 700))
    check_prefix(lambda k: bits.topk(scores, k), lambda z: (z * scores[:, None]).sum(2), [1, 2, 37, 38, 300])
    z, _ = bits.topk(scores, 300)
    assert distinct(z)
    np.testing.assert_array_equal(z[:, 0], scores > 0)
    # The subsets of the 8 cheapest flips are among the candidates: enumerate those independently.
    for row, found in zip(scores, z, strict=True):
        cheap = np.sort(np.abs(row))
        few = cheap[:8]
        costs = np.sort([np.dot(few, on) for on in product([0, 1], repeat=8)])
        sure = costs[costs < cheap[8]]
        assert len(sure) > 5
        np.testing.assert_allclose(row[row > 0].sum() - (found * row).sum(1)[: len(sure)], sure, atol=1e-11)


def test_only_the_cheapest_bits_ever_flip():
    scores = np.random.default_rng(1).normal(size=(4, 128))
    z, _ = bits.topk(scores, 10)
    flipped = (z != bits.argmax(scores)[:, None]).any(axis=1)
    ninth = np.sort(np.abs(scores), axis=1)[:, 8:9]
    assert (np.abs(scores)[flipped] <= np.broadcast_to(ninth, scores.shape)[flipped]).all()


def test_against_lawlers_partition():
    scores = np.random.default_rng(2).normal(size=(3, 40))

    def solve(on, off, row):
        z = bits.argmax(partition.restrict(scores[row], (), on, off)[0])
        return z, z, np.where(z, scores[row], 0).sum(axis=1)

    np.testing.assert_array_equal(bits.topk(scores, 60)[0], partition.kbest(solve, 3, 40, 60)[0])


def test_enumerate_and_cardinality():
    assert bits.enumerate(3).tolist() == [list(z) for z in product([False, True], repeat=3)]
    assert bits.enumerate(3).dtype == bool
    assert [bits.cardinality(n) for n in (1, 10, 100)] == [2, 1024, 2**100]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bits.argmax(np.zeros((2, 3, 4))), r"scores has shape \(2, 3, 4\), expected \[B, n\]"),
        (lambda: bits.topk(np.zeros((2, 3)), -1), "k is -1, expected at least 1"),
        (lambda: bits.topk(np.zeros((2, 0)), 1), r"scores has shape \(2, 0\)"),
        (lambda: bits.enumerate(0), "n is 0"),
    ],
)
def test_nonsense(call, message):
    with pytest.raises(ValueError, match=message):
        call()
