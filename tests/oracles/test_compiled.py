"""The C functions of the oracles against the arrays-in, arrays-out ones, ties and -inf included."""

import ctypes

import numpy as np
import pytest

from oracles import bits, budget, categorical, chain, compiled

NUMBERS, INTEGERS, ANY = (ctypes.POINTER(t) for t in (ctypes.c_double, ctypes.c_int64, ctypes.c_uint8))
FUNCTION = ctypes.CFUNCTYPE(None, NUMBERS, NUMBERS, INTEGERS, ANY, NUMBERS, NUMBERS)


def ask(oracle, scores, extra, labels, describe=False, v=None):
    """One row: labels, vertex and what ``extra`` adds, from the best structure or from ``labels`` and ``v``."""
    function = FUNCTION(oracle.describe if describe else oracle.argmax)
    v = np.full(scores.size, np.nan) if v is None else v.copy()
    more, sizes = np.zeros(2), np.array(oracle.sizes, np.int64)
    z = np.zeros(max(labels, 1), np.int64) if np.isscalar(labels) else np.array(labels, np.int64)
    scores, extra = np.ascontiguousarray(scores, float), np.ascontiguousarray(extra, float)
    function(
        scores.ctypes.data_as(NUMBERS), extra.ctypes.data_as(NUMBERS), sizes.ctypes.data_as(INTEGERS),
        z.ctypes.data_as(ANY), v.ctypes.data_as(NUMBERS), more.ctypes.data_as(NUMBERS),
    )  # fmt: skip
    return z, v, more


def draw(rng, kind, *shape):
    x = rng.normal(size=shape) if kind == "normal" else rng.integers(-2, 3, shape).astype(float)
    if kind == "masked":
        x[rng.random(shape) < 0.3] = -np.inf
    return x


@pytest.mark.parametrize("kind", ["normal", "ties", "masked"])
def test_bits_and_budgets(kind):
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 64, 65, 130):
        for x in draw(rng, kind, 20, n):
            np.testing.assert_array_equal(ask(bits.compiled(n), x, [], 0)[1], bits.argmax(x[None])[0])
            for m in {0, 1, n // 2, n - 1, n}:
                for exact in (False, True):
                    got = ask(budget.compiled(n, m, exact), x, [], 0)[1]
                    np.testing.assert_array_equal(got, budget.argmax(x[None], m, exact)[0])
                    # the same from what each row says of the numbers of ones
                    allowed = np.arange(n + 1) == m if exact else np.arange(n + 1) <= m
                    extra, oracle = np.where(allowed, 0.0, -np.inf), budget.compiled(n, None, exact)
                    _, v, more = ask(oracle, x, extra, 0)
                    np.testing.assert_array_equal(v, got)
                    assert more.tolist() == [0, 0]
                    if m < n:
                        assert ask(oracle, x, extra, 0, describe=True, v=np.ones(n))[2].tolist() == [-np.inf, 0]
            v = (x > 0).astype(float)
            for oracle in (bits.compiled(n), budget.compiled(n, n, False)):
                np.testing.assert_array_equal(ask(oracle, x, [], 0, describe=True, v=v)[1], v)


def test_a_selection_is_linear_in_what_is_sorted_already():
    """Sorted, reversed and equal scores: what makes a careless selection quadratic."""
    n = 20_000
    up = np.arange(n, dtype=float)
    for x in (up, up[::-1], np.zeros(n), up % 2):
        got = ask(budget.compiled(n, n // 3, True), x, [], 0)[1]
        np.testing.assert_array_equal(got, budget.argmax(x[None], n // 3, True)[0])


@pytest.mark.parametrize("kind", ["normal", "ties", "masked"])
def test_categorical(kind):
    rng = np.random.default_rng(1)
    for n in (1, 2, 9, 70):
        for x in draw(rng, kind, 30, n):
            z, v, _ = ask(categorical.compiled(n), x, [], 1)
            assert z[0] == categorical.argmax(x[None])[0]
            np.testing.assert_array_equal(v, np.arange(n) == z[0])
            np.testing.assert_array_equal(ask(categorical.compiled(n), x, [], z, describe=True)[1], v)


def plain_viterbi(unary, transition):
    """The lowest of the best labels, from the last position to the first."""
    value, back = unary[0], []
    for t in range(1, len(unary)):
        way = value[:, None] + transition[t - 1]
        back.append(way.argmax(0))
        value = way.max(0) + unary[t]
    labels = [int(value.argmax())]
    for before in reversed(back):
        labels.append(int(before[labels[-1]]))
    return labels[::-1], value.max()


@pytest.mark.parametrize("kind", ["normal", "ties", "masked"])
@pytest.mark.parametrize("states", [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 21])
def test_chains(kind, states):
    rng = np.random.default_rng(states)
    for length in (1, 2, 5):
        for _ in range(20):
            unary, transition = draw(rng, kind, length, states), draw(rng, "ties", length - 1, states, states)
            labels, best = plain_viterbi(unary, transition)
            if best == -np.inf:
                continue
            z, v, more = ask(chain.compiled(length, states), unary, transition, length)
            np.testing.assert_array_equal(z, labels)
            np.testing.assert_array_equal(chain.argmax(unary[None], transition[None])[0], labels)
            np.testing.assert_array_equal(v.reshape(length, states), np.eye(states)[labels])
            arcs = [transition[t, labels[t], labels[t + 1]] for t in range(length - 1)]
            np.testing.assert_allclose(more, [sum(arcs), sum(map(abs, arcs))], atol=1e-12)
            again = ask(chain.compiled(length, states), unary, transition, z, describe=True)
            np.testing.assert_array_equal(again[1], v)
            np.testing.assert_array_equal(again[2], more)


def test_an_address_for_good():
    assert bits.compiled(3).argmax == bits.compiled(5).argmax
    assert bits.compiled(3).sizes == (3,)
    assert len(compiled.SIGNATURE.args) == 6
