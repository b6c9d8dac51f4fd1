import numpy as np
import pytest

from oracles import categorical
from tests.oracles.brute_force import Judge, check_inputs, instances


@pytest.mark.parametrize("n", [1, 2, 5])
def test_against_enumeration(n):
    judge, scores = Judge(range(n), np.eye(n)), instances(n, (n,))
    z = categorical.argmax(scores)
    assert z.dtype == np.int64
    assert z.shape == (len(scores),)
    judge.check_argmax(z, scores)
    for k in range(1, n + 3):
        judge.check_topk(*categorical.topk(scores, k), scores, k)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_inputs(k):
    check_inputs(categorical.argmax, lambda s: categorical.topk(s, k), instances(0, (5,)))


def test_ties_go_to_the_lower_index():
    scores = np.array([[1.0, 2, 2, 0, 2], [0, 0, 0, 0, 0]])
    assert categorical.argmax(scores).tolist() == [1, 0]
    for k in range(1, 6):
        assert categorical.topk(scores, k)[0].tolist() == [[1, 2, 4, 0, 3][:k], [0, 1, 2, 3, 4][:k]]


def test_large():
    scores = np.random.default_rng(0).normal(size=(3, 5000))
    z, valid = categorical.topk(scores, 100)
    assert valid.all()
    np.testing.assert_array_equal(z, np.argsort(-scores, axis=1)[:, :100])


def test_enumerate_and_cardinality():
    assert categorical.enumerate(4).tolist() == [0, 1, 2, 3]
    assert categorical.enumerate(4).dtype == np.int64
    assert categorical.cardinality(4) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: categorical.argmax(np.zeros(3)), r"scores has shape \(3,\), expected \[B, n\]"),
        (lambda: categorical.argmax(np.zeros((2, 0))), r"scores has shape \(2, 0\)"),
        (lambda: categorical.argmax(np.zeros((2, 3), complex)), "scores has dtype complex128"),
        (lambda: categorical.argmax(np.array([["a"]])), "scores has dtype"),
        (lambda: categorical.topk(np.zeros((2, 3)), 0), "k is 0, expected at least 1"),
        (lambda: categorical.topk(np.zeros((2, 3)), 1.5), "k is 1.5, expected an integer"),
        (lambda: categorical.enumerate(0), "n is 0"),
        (lambda: categorical.cardinality(-1), "n is -1"),
    ],
)
def test_nonsense(call, message):
    with pytest.raises(ValueError, match=message):
        call()
