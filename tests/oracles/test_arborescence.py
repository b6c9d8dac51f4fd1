from itertools import product

import networkx
import numpy as np
import pytest
from scipy.stats import chi2

from oracles import arborescence, partition
from tests.oracles.brute_force import Judge, check_inputs, check_prefix, distinct, instances
from tests.oracles.test_compiled import ask

SPACES = [(n, multi_root) for n in (1, 2, 3, 4) for multi_root in (True, False)]


def is_tree(heads, multi_root):
    for m in range(len(heads)):
        node = m + 1
        for _ in heads:
            node = heads[node - 1] if node else 0
        if node:
            return False
    return multi_root or sum(h == 0 for h in heads) == 1


def every(n, multi_root):
    return [z for z in product(range(n + 1), repeat=n) if is_tree(z, multi_root)]


def vertex(z, n):
    return np.asarray(z)[..., None] == np.arange(n + 1)


def score(z, scores):
    return np.where(vertex(z, scores.shape[1]), scores[:, None], 0).sum(axis=(2, 3))


def draw(rng, kind, *shape):
    x = rng.normal(size=shape) if kind == "normal" else rng.integers(-2, 3, shape).astype(float)
    if kind == "masked":
        x[rng.random(shape) < 0.2] = -np.inf
    return x


def networkx_score(scores):
    """The best score of one row by NetworkX, -inf where it finds no tree."""
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(scores.shape[1]))
    for m, h in np.argwhere(scores > -np.inf).tolist():
        if h != m + 1:
            graph.add_edge(h, m + 1, weight=float(scores[m, h]))
    try:
        tree = networkx.maximum_spanning_arborescence(graph)
    except networkx.NetworkXException:
        return -np.inf
    return sum(scores[m - 1, h] for h, m in tree.edges)


def one_root(scores, root):
    """The same row with the word ``root`` as the only one that may hang on the root."""
    bound = scores.copy()
    bound[:, 0] = -np.inf
    bound[root] = -np.inf
    bound[root, 0] = scores[root, 0]
    return bound


@pytest.mark.parametrize(("n", "multi_root"), SPACES)
def test_against_enumeration(n, multi_root):
    structures = every(n, multi_root)
    judge, scores = Judge(structures, vertex(structures, n)), instances(n, (n, n + 1))
    feasible = judge.scores(scores).max(axis=1) > -np.inf
    z = arborescence.argmax(scores, multi_root)
    assert z.dtype == np.int64
    judge.check_argmax(z, scores)
    assert (z[~feasible] == -1).all()
    for k in {*range(1, 8), len(structures) - 1, len(structures), len(structures) + 2} - {0}:
        z, valid = arborescence.topk(scores, k, multi_root)
        assert z.dtype == np.int64
        judge.check_topk(z, valid, scores, k)
        assert (z[~feasible] == -1).all()


@pytest.mark.parametrize(("n", "multi_root"), SPACES)
def test_enumerate_and_cardinality(n, multi_root):
    found = arborescence.enumerate(n, multi_root)
    assert found.dtype == np.int64
    assert [tuple(z) for z in found.tolist()] == every(n, multi_root)
    assert arborescence.cardinality(n, multi_root) == len(found)


def test_known_counts():
    assert [arborescence.cardinality(n) for n in range(1, 7)] == [1, 3, 16, 125, 1296, 16807]  # OEIS A000272
    assert [arborescence.cardinality(n, False) for n in range(1, 7)] == [1, 2, 9, 64, 625, 7776]  # OEIS A000169
    assert arborescence.cardinality(100) == 101**99


@pytest.mark.parametrize("multi_root", [True, False])
def test_inputs(multi_root):
    for k in (1, 5):
        check_inputs(
            lambda s: arborescence.argmax(s, multi_root),
            lambda s, k=k: arborescence.topk(s, k, multi_root),
            instances(0, (3, 4)),
        )


@pytest.mark.parametrize("kind", ["normal", "ties", "masked"])
@pytest.mark.parametrize("n", [6, 15, 30])
def test_argmax_against_networkx(n, kind):
    scores = draw(np.random.default_rng(n), kind, 6, n, n + 1)
    for row, z in zip(scores, arborescence.argmax(scores), strict=True):
        assert score(z[None, None], row[None])[0, 0] == pytest.approx(networkx_score(row), abs=1e-10)


@pytest.mark.parametrize("kind", ["normal", "ties", "masked"])
@pytest.mark.parametrize("n", [6, 10])
def test_a_single_root_against_networkx(n, kind):
    scores = draw(np.random.default_rng(n), kind, 6, n, n + 1)
    scores[:3, :, 0] += 3  # where many words want to hang on the root
    for row, z in zip(scores, arborescence.argmax(scores, False), strict=True):
        best = max(networkx_score(one_root(row, r)) for r in range(n))
        assert (z == 0).sum() == 1
        assert score(z[None, None], row[None])[0, 0] == pytest.approx(best, abs=1e-10)


def test_cycles_in_cycles():
    """Each word's best head is in its own pair, each pair's in its own four, and so on: contractions nest."""
    for n in (8, 16, 32):
        m, h = np.indices((n, n))
        near = np.where(m == h, 0, np.floor(np.log2((m ^ h) + 0.5)) + 1)
        scores = np.concatenate([np.full((n, 1), -2000.0), -(4.0**near)], axis=1)
        scores[n // 3, 0] = -1999.0
        z = arborescence.argmax(scores[None])
        assert z[0, n // 3] == 0
        assert is_tree(tuple(z[0].tolist()), False)
        assert score(z[:, None], scores[None])[0, 0] == networkx_score(scores)
        np.testing.assert_array_equal(arborescence.argmax(scores[None], False), z)


def test_infeasible_rows():
    allowed, headless, island, no_root = (np.zeros((3, 4)) for _ in range(4))
    headless[1] = -np.inf
    island[:2, [0, 3]] = -np.inf  # words 0 and 1 know only each other
    no_root[:, 0] = -np.inf
    apart = np.full((3, 4), -np.inf)
    apart[:, 0] = 0.0
    scores = np.stack([headless, allowed, island, no_root, apart])
    assert arborescence.topk(scores, 20)[1].sum(axis=1).tolist() == [0, 16, 0, 0, 1]
    assert arborescence.topk(scores, 20, False)[1].sum(axis=1).tolist() == [0, 9, 0, 0, 0]
    for multi_root, infeasible in ((True, [0, 2, 3]), (False, [0, 2, 3, 4])):
        assert (arborescence.argmax(scores, multi_root)[infeasible] == -1).all()


@pytest.mark.parametrize("multi_root", [True, False])
@pytest.mark.parametrize("value", [-np.inf, 1e300])
def test_a_word_as_its_own_head_is_never_read(value, multi_root):
    scores = np.random.default_rng(0).normal(size=(4, 5, 6))
    changed = scores.copy()
    changed[:, np.arange(5), np.arange(1, 6)] = value
    uniform = np.random.default_rng(1).random((3, 4, 5))
    for call in (
        lambda s: arborescence.argmax(s, multi_root),
        lambda s: arborescence.topk(s, 4, multi_root)[0],
        lambda s: arborescence.sample(s, uniform, multi_root),
    ):
        np.testing.assert_array_equal(call(scores), call(changed))


@pytest.mark.parametrize("multi_root", [True, False])
def test_against_lawlers_partition(multi_root):
    n = 7
    scores = np.random.default_rng(1).normal(size=(2, n, n + 1))

    def solve(on, off, row):
        z = arborescence.argmax(partition.restrict(scores[row], (), on, off)[0], multi_root)
        vertices = vertex(z, n).reshape(len(z), -1)
        return z, vertices, np.where((z < 0).any(axis=1), -np.inf, score(z[:, None], scores[row])[:, 0])

    z, valid = arborescence.topk(scores, 25, multi_root)
    assert valid.all()
    np.testing.assert_array_equal(z, partition.kbest(solve, 2, n * (n + 1), 25, antichain=True)[0])


@pytest.mark.parametrize("multi_root", [True, False])
def test_large(multi_root):
    scores = np.random.default_rng(0).normal(size=(1, 20, 21))
    check_prefix(lambda k: arborescence.topk(scores, k, multi_root), lambda z: score(z, scores), [1, 2, 199, 200])
    z, _ = arborescence.topk(scores, 200, multi_root)
    assert distinct(z)
    assert all(is_tree(tuple(heads), multi_root) for heads in z[0].tolist())
    np.testing.assert_array_equal(z[:, 0], arborescence.argmax(scores, multi_root))


@pytest.mark.parametrize("kind", ["normal", "ties", "masked"])
def test_compiled(kind):
    rng = np.random.default_rng(2)
    for n in (1, 2, 5, 12):
        for multi_root in (True, False):
            for x in draw(rng, kind, 10, n, n + 1):
                best = arborescence.argmax(x[None], multi_root)[0]
                if (best < 0).any():
                    continue
                z, v, _ = ask(arborescence.compiled(n, multi_root), x, [], n)
                np.testing.assert_array_equal(z, best)
                np.testing.assert_array_equal(v.reshape(n, n + 1), vertex(best, n))
                again = ask(arborescence.compiled(n, multi_root), x, [], z, describe=True)
                np.testing.assert_array_equal(again[1], v)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("n", "multi_root"), SPACES[2:])
def test_samples_have_their_probabilities(n, multi_root, masked):
    """A chi-square test at the level 1e-3, on fixed numbers: three rows of scores at different scales."""
    rng = np.random.default_rng(10 * n + multi_root)
    structures = np.array(every(n, multi_root))
    judge, count = Judge(structures, vertex(structures, n)), 4000
    scores = draw(rng, "normal", 3, n, n + 1) * np.array([0.3, 1.0, 3.0])[:, None, None]
    if masked:
        spared = vertex(structures[rng.integers(len(structures), size=3)], n)
        scores[(rng.random(scores.shape) < 0.3) & ~spared] = -np.inf
    z = arborescence.sample(scores, rng.random((count, 3, n)), multi_root)
    assert z.shape == (count, 3, n)
    assert z.dtype == np.int64
    total = judge.scores(scores).astype(float)
    p = np.exp(total - total.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    for b, at in enumerate(judge.positions(z, 2).T):
        seen = np.bincount(at, minlength=len(structures))
        assert (seen[p[b] == 0] == 0).all()
        common = p[b] * count >= 5
        expected = np.append(p[b][common], p[b][~common].sum()) * count
        found = np.append(seen[common], seen[~common].sum())
        kept = expected > 0
        statistic = ((found - expected)[kept] ** 2 / expected[kept]).sum()
        if kept.sum() > 1:
            assert statistic < chi2.ppf(0.999, kept.sum() - 1)


@pytest.mark.parametrize("multi_root", [True, False])
def test_samples_at_large_scales_are_trees(multi_root):
    """Scores whose exponentials neither overflow nor vanish: all but impossible heads are needed by many trees."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(20, 8, 9)) * 1e4
    best = arborescence.argmax(scores, multi_root)
    gap = np.diff(score(arborescence.topk(scores, 2, multi_root)[0], scores), axis=1)[:, 0]
    sure = gap < -40
    assert sure.sum() > 15
    z = arborescence.sample(scores, rng.random((50, 20, 8)), multi_root)
    assert (z[:, sure] == best[sure]).all()
    assert all(is_tree(tuple(heads), multi_root) for heads in z.reshape(-1, 8).tolist())


@pytest.mark.parametrize("multi_root", [True, False])
def test_samples_where_one_tree_is_left(multi_root):
    """Chains in all orders: each word has one head, whatever the order in which words are taken out."""
    rng = np.random.default_rng(4)
    for n in (1, 2, 3, 6):
        for _ in range(10):
            order, heads = rng.permutation(n), np.zeros(n, np.int64)
            heads[order[1:]] = order[:-1] + 1
            scores = np.where(vertex(heads, n), rng.normal(size=(n, n + 1)), -np.inf)
            z = arborescence.sample(scores[None], rng.random((3, 1, n)), multi_root)
            np.testing.assert_array_equal(z, np.broadcast_to(heads, z.shape))


def test_no_samples():
    scores = np.zeros((2, 3, 4))
    assert arborescence.sample(scores, np.zeros((0, 2, 3))).shape == (0, 2, 3)
    assert arborescence.sample(scores[:0], np.zeros((4, 0, 3))).shape == (4, 0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: arborescence.argmax(np.zeros((2, 3))), r"scores has shape \(2, 3\), expected \[B, n, n \+ 1\]"),
        (lambda: arborescence.argmax(np.zeros((2, 3, 3))), r"scores has shape \(2, 3, 3\), expected \[B, n, n \+ 1\]"),
        (lambda: arborescence.argmax(np.full((1, 1, 2), np.nan)), "scores contains nan"),
        (lambda: arborescence.topk(np.zeros((2, 3, 4)), 0), "k is 0"),
        (lambda: arborescence.sample(np.zeros((2, 3, 4)), np.zeros((5, 2, 4))), r"uniform has shape \(5, 2, 4\)"),
        (lambda: arborescence.enumerate(0), "words is 0"),
        (lambda: arborescence.cardinality(-1), "words is -1"),
    ],
)
def test_nonsense(call, message):
    with pytest.raises(ValueError, match=message):
        call()
