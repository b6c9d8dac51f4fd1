from itertools import product

import networkx
import numpy as np
import pytest

from oracles import matching, partition
from tests.oracles.brute_force import Judge, check_inputs, check_prefix, distinct, instances

SPACES = [
    (r, c, partial)
    for r, c in [(1, 1), (1, 3), (3, 1), (2, 2), (2, 3), (3, 2), (3, 3), (2, 4), (4, 2)]
    for partial in (False, True)
]


def every(rows, cols, partial):
    found = []
    for z in product(range(-1, cols), repeat=rows):
        taken = [c for c in z if c >= 0]
        if len(set(taken)) == len(taken) and (partial or len(taken) == min(rows, cols)):
            found.append(z)
    return found


def vertex(z, cols):
    return np.asarray(z)[..., None] == np.arange(cols)


def score(z, scores):
    return np.where(vertex(z, scores.shape[2]), scores[:, None], 0).sum(axis=(2, 3))


@pytest.mark.parametrize(("rows", "cols", "partial"), SPACES)
def test_against_enumeration(rows, cols, partial):
    structures = every(rows, cols, partial)
    judge, scores = Judge(structures, vertex(structures, cols)), instances(rows + cols, (rows, cols))
    z = matching.argmax(scores, partial)
    assert z.dtype == np.int64
    judge.check_argmax(z, scores)
    for k in range(1, len(structures) + 3):
        z, valid = matching.topk(scores, k, partial)
        assert z.dtype == np.int64
        judge.check_topk(z, valid, scores, k)


@pytest.mark.parametrize(("rows", "cols", "partial"), SPACES)
def test_enumerate_and_cardinality(rows, cols, partial):
    found = matching.enumerate(rows, cols, partial)
    assert found.dtype == np.int64
    assert [tuple(z) for z in found.tolist()] == every(rows, cols, partial)
    assert matching.cardinality(rows, cols, partial) == len(found)


def test_known_counts():
    assert matching.cardinality(10, 10) == 3628800
    assert matching.cardinality(2, 5) == matching.cardinality(5, 2) == 20
    assert [matching.cardinality(n, n, partial=True) for n in range(1, 6)] == [
        2,
        7,
        34,
        209,
        1546,
    ]  # OEIS A002720


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (3, 2)])
def test_inputs(shape, partial):
    for k in (1, 5):
        check_inputs(
            lambda s: matching.argmax(s, partial),
            lambda s, k=k: matching.topk(s, k, partial),
            instances(0, shape),
        )


def test_infeasible_matrices():
    allowed, none = np.zeros((3, 3)), np.full((3, 3), -np.inf)
    no_row, no_column, crowded = allowed.copy(), allowed.copy(), none.copy()
    no_row[1], no_column[:, 2], crowded[:, 0] = -np.inf, -np.inf, 0.0
    scores = np.stack([no_row, allowed, no_column, crowded, none])
    assert matching.topk(scores, 7)[1].sum(axis=1).tolist() == [0, 6, 0, 0, 0]
    best = matching.argmax(scores)
    assert (best[[0, 2, 3, 4]] == -1).all()
    assert sorted(best[1]) == [0, 1, 2]
    assert matching.topk(scores, 40, partial=True)[1].sum(axis=1).tolist() == [13, 34, 13, 4, 1]
    assert (matching.argmax(scores[4:], partial=True) == -1).all()


def test_a_column_without_any_pair_is_no_obstacle_where_columns_abound():
    scores = np.zeros((1, 2, 3))
    scores[0, :, 1] = -np.inf
    assert matching.topk(scores, 9)[1].sum() == 2
    assert matching.topk(scores.transpose(0, 2, 1), 9)[1].sum() == 2


def test_forbidden_by_a_large_finite_number():
    scores = np.where(np.eye(4, dtype=bool), -1e6, np.random.default_rng(0).normal(size=(3, 4, 4)))
    z, valid = matching.topk(scores, 9)  # there are 9 derangements of 4
    assert valid.all()
    assert (z != np.arange(4)).all()


def test_argmax_against_networkx():
    scores = np.random.default_rng(0).normal(size=(4, 7, 9))
    for matrix, z in zip(scores, matching.argmax(scores, partial=True), strict=True):
        graph = networkx.Graph()
        graph.add_weighted_edges_from((r, 100 + c, matrix[r, c]) for r, c in np.ndindex(7, 9) if matrix[r, c] > 0)
        pairs = {(min(e), max(e) - 100) for e in networkx.max_weight_matching(graph)}
        assert pairs == {(r, c) for r, c in enumerate(z) if c >= 0}


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("shape", [(8, 8), (5, 9), (9, 5)])
def test_against_lawlers_partition(shape, partial):
    scores = np.random.default_rng(1).normal(size=(2, *shape))
    parts = shape[0] * shape[1]

    def solve(on, off, row):
        z = matching.argmax(partition.restrict(scores[row], (), on, off)[0], partial)
        vertices = vertex(z, shape[1]).reshape(len(z), parts)
        infeasible = (z < 0).all(axis=1) & (not partial)
        return z, vertices, np.where(infeasible, -np.inf, score(z[:, None], scores[row])[:, 0])

    z, valid = matching.topk(scores, 25, partial)
    assert valid.all()
    np.testing.assert_array_equal(z, partition.kbest(solve, 2, parts, 25, antichain=not partial)[0])


@pytest.mark.parametrize("partial", [False, True])
def test_large(partial):
    scores = np.random.default_rng(0).normal(size=(1, 20, 25))
    check_prefix(lambda k: matching.topk(scores, k, partial), lambda z: score(z, scores), [1, 2, 49, 50])
    z, _ = matching.topk(scores, 50, partial)
    assert distinct(z)
    np.testing.assert_array_equal(z[:, 0], matching.argmax(scores, partial))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: matching.argmax(np.zeros((2, 3))), r"scores has shape \(2, 3\), expected \[B, r, c\]"),
        (lambda: matching.argmax(np.zeros((2, 3, 0))), r"scores has shape \(2, 3, 0\)"),
        (lambda: matching.topk(np.zeros((2, 3, 3)), 0), "k is 0"),
        (lambda: matching.enumerate(0, 2), "rows is 0"),
        (lambda: matching.cardinality(2, 0), "cols is 0"),
    ],
)
def test_nonsense(call, message):
    with pytest.raises(ValueError, match=message):
        call()
