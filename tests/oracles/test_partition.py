import numpy as np
import pytest

from oracles import partition
from tests.oracles.brute_force import Judge, instances

PARTS = 6


def families():
    """Vertex sets: all, some at random (one may contain another), those with three ones (none does)."""
    everything = (np.arange(1 << PARTS)[:, None] >> np.arange(PARTS) & 1).astype(bool)
    some = everything[np.random.default_rng(0).random(len(everything)) < 0.3]
    return {"all": everything, "some": some, "antichain": everything[everything.sum(axis=1) == 3]}


class Table:
    """The oracle of a listed family, with structure i named 10 i + 3; may be off by `slack`, or lie."""

    def __init__(self, vertices, scores, slack=0.0, obedient=True):
        self.vertices, self.obedient, self.calls, self.asked = vertices, obedient, 0, 0
        self.scores = np.where(vertices, scores[:, None], 0).sum(axis=2)
        self.slack, self.rng = slack, np.random.default_rng(0)

    def __call__(self, on, off, row):
        self.calls, self.asked = self.calls + 1, self.asked + len(row)
        inside = ~((on[:, None] & ~self.vertices) | (off[:, None] & self.vertices)).any(axis=2)
        scores = np.where(inside, self.scores[row], -np.inf) if self.obedient else self.scores[row]
        seen = scores + self.slack * self.rng.random(scores.shape)
        i = seen.argmax(axis=1)
        return 10 * i + 3, self.vertices[i], np.take_along_axis(scores, i[:, None], axis=1)[:, 0]


@pytest.mark.parametrize("name", ["all", "some", "antichain"])
def test_against_enumeration(name):
    vertices, scores = families()[name], instances(0, (PARTS,))
    judge = Judge(10 * np.arange(len(vertices)) + 3, vertices)
    for antichain in {False, name == "antichain"}:
        for k in (1, 2, 3, 10, len(vertices) - 1, len(vertices), len(vertices) + 2):
            table = Table(vertices, scores)
            z, valid, value = partition.kbest(table, len(scores), PARTS, k, antichain)
            judge.check_topk(z, valid, scores, k)
            assert (value[:, 1:] <= value[:, :-1]).all()
            assert (value[~valid] == -np.inf).all()
            rows, ranks = np.nonzero(valid)
            np.testing.assert_array_equal(value[valid], table.scores[rows, (z[rows, ranks] - 3) // 10])
            assert table.calls <= k  # one for the roots and one a round, none after the last


def test_ties_come_in_the_order_of_the_vertices_whatever_the_batch():
    vertices, scores = families()["some"], np.zeros((3, PARTS))
    z, _, _ = partition.kbest(Table(vertices, scores), 3, PARTS, 8)
    assert (z == z[0]).all()
    one, _, _ = partition.kbest(Table(vertices, scores[:1]), 1, PARTS, 8)
    np.testing.assert_array_equal(one[0], z[0])

    everything = families()["all"]
    z, _, _ = partition.kbest(Table(everything, scores), 3, PARTS, 1 << PARTS)
    keys = [everything[i].tobytes() for i in (z[0] - 3) // 10]
    assert keys == sorted(keys)


def test_the_antichain_saves_subproblems():
    vertices, scores = families()["antichain"], np.random.default_rng(0).normal(size=(4, PARTS))
    plain, fewer = Table(vertices, scores), Table(vertices, scores)
    a, b = partition.kbest(plain, 4, PARTS, 9), partition.kbest(fewer, 4, PARTS, 9, antichain=True)
    np.testing.assert_array_equal(a[0], b[0])
    assert fewer.asked < 0.6 * plain.asked


@pytest.mark.parametrize("name", ["all", "some", "antichain"])
def test_an_imprecise_oracle_gives_nothing_twice(name):
    vertices, scores = families()[name], np.ones((5, PARTS))
    for antichain in {False, name == "antichain"}:
        table = Table(vertices, scores, slack=1.5)
        z, valid, value = partition.kbest(table, 5, PARTS, len(vertices), antichain)
        assert valid.all()
        assert (np.sort(z, axis=1) == 10 * np.arange(len(vertices)) + 3).all()
        assert (value[:, 1:] <= value[:, :-1]).all()


def test_answers_outside_their_subproblem_are_dropped():
    table = Table(families()["some"], np.random.default_rng(0).normal(size=(3, PARTS)), obedient=False)
    _, valid, _ = partition.kbest(table, 3, PARTS, 5)
    assert valid.sum(axis=1).tolist() == [1, 1, 1]


def test_pieces_and_pruning_change_nothing(monkeypatch):
    vertices, scores = families()["some"], instances(1, (PARTS,))
    for k in (2, 7):
        whole = partition.kbest(Table(vertices, scores), len(scores), PARTS, k)
        full = partition.kbest(Table(vertices, scores), len(scores), PARTS, len(vertices))
        monkeypatch.setattr(partition, "CHUNK", 5 * PARTS)
        cut = Table(vertices, scores)
        for a, b in zip(whole, partition.kbest(cut, len(scores), PARTS, k), strict=True):
            np.testing.assert_array_equal(a, b)
        assert cut.calls > k
        monkeypatch.undo()
        feasible = whole[1]
        np.testing.assert_array_equal(whole[0][feasible], full[0][:, :k][feasible])


def test_an_empty_batch_and_event_shapes():
    def solve(on, off, row):
        return np.zeros((len(row), 2, 3), np.float32), on, np.where(on.any(axis=1), -np.inf, 0.0)

    z, valid, value = partition.kbest(solve, 0, PARTS, 4)
    assert z.shape == (0, 4, 2, 3)
    assert z.dtype == np.float32
    assert valid.shape == value.shape == (0, 4)
    z, valid, _ = partition.kbest(solve, 2, PARTS, 4)
    assert z.shape == (2, 4, 2, 3)
    assert valid.tolist() == [[True, False, False, False]] * 2


@pytest.mark.parametrize("name", ["all", "some", "antichain"])
def test_enumerate(name):
    vertices = families()[name]
    for antichain in {False, name == "antichain"}:
        table = Table(vertices, np.zeros((1, PARTS)))
        z = partition.enumerate(table, PARTS, len(vertices), antichain)
        assert sorted(z) == sorted(10 * np.arange(len(vertices)) + 3)
        cut = partition.enumerate(Table(vertices, np.zeros((1, PARTS))), PARTS, len(vertices) - 1, antichain)
        assert len(cut) == len(set(cut)) == len(vertices)
        assert len(partition.enumerate(Table(vertices, np.zeros((1, PARTS))), PARTS, 2, antichain)) > 2


@pytest.mark.parametrize("scale", [1e-300, 1e-6, 1.0, 1e6, 1e300])
def test_restrict_scales_exactly_and_outweighs(scale):
    rng = np.random.default_rng(0)
    scores, extra = rng.normal(size=(5, 2, 3)) * scale, rng.normal(size=(5, 4)) * 3 * scale
    scores[0, 0, 0], extra[1, 2], scores[2], extra[2] = -np.inf, -np.inf, 0.0, 0.0
    on, off = np.zeros((5, 6), bool), np.zeros((5, 6), bool)
    a, (n,) = partition.restrict(scores, (extra,), on, off)
    for b in range(5):
        all_of_it = np.concatenate([a[b].ravel(), n[b]])
        original = np.concatenate([scores[b].ravel(), extra[b]])
        np.testing.assert_array_equal(np.isfinite(all_of_it), np.isfinite(original))
        keep = np.isfinite(original) & (original != 0)
        assert np.abs(all_of_it[keep]).sum() <= 1
        if keep.any():
            assert np.abs(all_of_it[keep]).sum() >= 0.25  # no smaller than it must be: precision is kept
            factors = np.unique(all_of_it[keep] / original[keep])
            assert len(factors) == 1
            assert np.frexp(factors[0])[0] == 0.5

    on[:, 0], off[:, 5] = True, True
    forced, _ = partition.restrict(scores, (extra,), on, off)
    assert (forced[:, 1, 2] == -np.inf).all()
    assert forced[0, 0, 0] == -np.inf  # forced, but forbidden
    np.testing.assert_array_equal(forced[1:, 0, 0], a[1:, 0, 0] + 4)
    np.testing.assert_array_equal(forced[:, 0, 1:], a[:, 0, 1:])


def test_restrict_does_not_overflow():
    scores = np.full((2, 6), [[1.7e308], [-1.7e308]])
    none = np.zeros((2, 6), bool)
    a, _ = partition.restrict(scores, (), none, none)
    assert (np.abs(a).sum(axis=1) <= 1).all()
    assert (np.abs(a).sum(axis=1) >= 0.5).all()


def test_restrict_an_empty_batch_and_all_forbidden():
    none = np.zeros((0, 6), bool)
    a, (n,) = partition.restrict(np.zeros((0, 2, 3)), (np.zeros((0, 4)),), none, none)
    assert a.shape == (0, 2, 3)
    assert n.shape == (0, 4)
    rows = np.zeros((1, 2), bool)
    assert (partition.restrict(np.full((1, 2), -np.inf), (), ~rows, rows)[0] == -np.inf).all()


@pytest.mark.parametrize(
    ("arguments", "message"), [((1, 6, 0), "k is 0"), ((-1, 6, 1), "batch is -1"), ((1, 0, 1), "parts is 0")]
)
def test_nonsense(arguments, message):
    with pytest.raises(ValueError, match=message):
        partition.kbest(Table(families()["all"], np.zeros((1, PARTS))), *arguments)
