from itertools import pairwise, product

import numpy as np
import pytest

from oracles import chain, partition
from tests.oracles.brute_force import Judge, check_inputs, check_prefix, distinct, instances

SIZES = [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2), (4, 2), (3, 3)]


def judge_of(length, states):
    every = list(product(range(states), repeat=length))
    vertices = []
    for labels in every:
        edges = [np.outer(np.arange(states) == i, np.arange(states) == j) for i, j in pairwise(labels)]
        vertices.append(np.concatenate([np.eye(states)[list(labels)].ravel(), np.ravel(edges)]))
    return Judge(every, vertices)


def problems(seed, length, states):
    """Unary and transition scores of every kind, and all of them as one array of parts."""
    nodes = length * states
    parts = instances(seed, (nodes + (length - 1) * states**2,))
    unary = parts[:, :nodes].reshape(-1, length, states)
    return unary, parts[:, nodes:].reshape(len(parts), length - 1, states, states), parts


def score(z, unary, transition):
    """Scores of labellings [B, k, T], written out."""
    out = np.zeros(z.shape[:2])
    for b, j in np.ndindex(out.shape):
        out[b, j] = sum(unary[b, t, i] for t, i in enumerate(z[b, j]))
        out[b, j] += sum(transition[b, t, i, i2] for t, (i, i2) in enumerate(pairwise(z[b, j])))
    return out


@pytest.mark.parametrize(("length", "states"), SIZES)
def test_against_enumeration(length, states):
    judge = judge_of(length, states)
    unary, transition, parts = problems(length, length, states)
    z = chain.argmax(unary, transition)
    assert z.dtype == np.int64
    judge.check_argmax(z, parts)
    for k in range(1, states**length + 3):
        z, valid = chain.topk(unary, transition, k)
        assert z.dtype == np.int64
        judge.check_topk(z, valid, parts, k)


@pytest.mark.parametrize("k", [1, 3, 30])
@pytest.mark.parametrize(("length", "states"), [(1, 3), (3, 3)])
def test_inputs(k, length, states):
    unary, transition, _ = problems(0, length, states)
    check_inputs(chain.argmax, lambda u, t: chain.topk(u, t, k), unary, transition)


@pytest.mark.parametrize("batch", [0, 1, 4])
def test_transitions_broadcast_over_batch_and_time(batch):
    rng = np.random.default_rng(0)
    unary, shared, varying = (
        rng.normal(size=(batch, 5, 3)),
        rng.normal(size=(3, 3)),
        rng.normal(size=(4, 3, 3)),
    )
    for given in (shared, shared[None, None], varying, varying[None], rng.normal(size=(batch, 1, 3, 3))):
        view = np.broadcast_to(given, (batch, 4, 3, 3))
        for transition in (given, view):
            np.testing.assert_array_equal(chain.argmax(unary, transition), chain.argmax(unary, view.copy()))
            np.testing.assert_array_equal(chain.topk(unary, transition, 7)[0], chain.topk(unary, view.copy(), 7)[0])


def test_shared_transitions_are_not_copied_along_the_batch():
    view = np.broadcast_to(np.zeros((3, 3), np.float32), (64, 4, 3, 3))
    nodes, edges = chain._canonical(np.zeros((64, 5, 3)), view)
    assert edges.shape == (1, 4, 3, 3)
    assert edges.dtype == nodes.dtype == np.float64


def test_the_best_of_k_is_the_argmax():
    rng = np.random.default_rng(0)
    unary, transition = rng.normal(size=(5, 30, 6)), rng.normal(size=(5, 29, 6, 6))
    for k in (1, 2, 20):
        np.testing.assert_array_equal(chain.topk(unary, transition, k)[0][:, 0], chain.argmax(unary, transition))


def test_ties_go_to_the_lower_label():
    assert chain.argmax(np.zeros((1, 4, 3)), np.zeros((1, 3, 3, 3))).tolist() == [[0, 0, 0, 0]]


def test_forbidden_transitions_make_rows_infeasible():
    unary, transition = np.zeros((2, 3, 2)), np.zeros((2, 2, 2, 2))
    transition[0, 1] = -np.inf
    transition[1, :, 0] = -np.inf
    z, valid = chain.topk(unary, transition, 4)
    assert valid.tolist() == [[False] * 4, [True, True, False, False]]
    assert z[1, :2].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert chain.argmax(unary, transition)[1].tolist() == [1, 1, 0]


def test_against_lawlers_partition():
    rng = np.random.default_rng(3)
    unary, transition = rng.normal(size=(3, 8, 5)), rng.normal(size=(3, 7, 5, 5))

    def solve(on, off, row):
        restricted, (edges,) = partition.restrict(unary[row], (transition[row],), on, off)
        z = chain.argmax(restricted, edges)
        vertices = (z[..., None] == np.arange(5)).reshape(len(z), 40)
        return z, vertices, score(z[:, None], unary[row], transition[row])[:, 0]

    z, valid = chain.topk(unary, transition, 40)
    assert valid.all()
    np.testing.assert_array_equal(z, partition.kbest(solve, 3, 40, 40, antichain=True)[0])


def test_large():
    rng = np.random.default_rng(0)
    unary, transition = rng.normal(size=(2, 40, 10)), rng.normal(size=(2, 39, 10, 10))
    check_prefix(lambda k: chain.topk(unary, transition, k), lambda z: score(z, unary, transition), [1, 2, 49, 50, 200])
    assert distinct(chain.topk(unary, transition, 200)[0])


def test_enumerate_and_cardinality():
    assert chain.enumerate(3, 2).tolist() == [list(z) for z in product(range(2), repeat=3)]
    assert chain.enumerate(2, 3).tolist() == [list(z) for z in product(range(3), repeat=2)]
    assert chain.enumerate(1, 1).tolist() == [[0]]
    assert chain.enumerate(3, 2).dtype == np.int64
    assert chain.cardinality(50, 10) == 10**50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: chain.argmax(np.zeros((2, 3)), np.zeros((3, 3))),
            r"unary has shape \(2, 3\), expected \[B, T, S\]",
        ),
        (
            lambda: chain.argmax(np.zeros((2, 4, 3)), np.zeros((2, 4, 3, 3))),
            r"transition has shape \(2, 4, 3, 3\), expected \(2, 3, 3, 3\)",
        ),
        (
            lambda: chain.argmax(np.zeros((2, 4, 3)), np.zeros((3, 3), complex)),
            "transition has dtype complex128",
        ),
        (lambda: chain.topk(np.zeros((2, 4, 3)), np.zeros((3, 3)), 0), "k is 0"),
        (lambda: chain.argmax(np.zeros((2, 0, 3)), np.zeros((3, 3))), r"unary has shape \(2, 0, 3\)"),
        (lambda: chain.enumerate(0, 2), "length is 0"),
        (lambda: chain.cardinality(2, 0), "states is 0"),
    ],
)
def test_nonsense(call, message):
    with pytest.raises(ValueError, match=message):
        call()
