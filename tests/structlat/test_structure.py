"""Structures of a user's own: one method, any function, and what catches a wrong one."""

import numpy as np
import pytest
import torch
from torch import Tensor

import structlat as sl
from structlat.testing import check_structure


class Pair(sl.Structure):
    """Exactly two neighbouring parts are on. No __init__, no super(), and a tuple for a shape."""

    shape = (6,)

    def argmax(self, scores):
        best = (scores[:, :-1] + scores[:, 1:]).argmax(-1)
        at = torch.arange(6)
        return ((at == best[:, None]) | (at == best[:, None] + 1)).to(scores.dtype)


class Empty(Pair):
    """Contains the zero vector and others that contain it: no antichain."""

    def argmax(self, scores):
        z = super().argmax(scores)
        score = torch.where(z > 0, scores, 0).sum(-1, keepdim=True)
        return torch.where(score > 0, z, 0)


def neighbours(scores):
    best = int(np.argmax(scores[:-1] + scores[1:]))
    z = np.zeros(6)
    z[best : best + 2] = 1
    return z


@pytest.mark.parametrize(("structure", "count"), [(Pair(), 5), (Empty(), 6)])
def test_argmax_alone_is_enough(structure, count):
    check_structure(structure)
    assert structure.cardinality() == count
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    for post in (
        sl.sparsemap(structure, x, validate=True),
        sl.topk_sparsemax(structure, x, k=3),
        sl.marginalize(structure, x),
    ):
        torch.testing.assert_close(post.probs.sum(-1), torch.ones(3))
        assert structure.contains(post.structures).all()


def test_an_abstract_structure_cannot_be_made():
    with pytest.raises(TypeError, match="argmax"):
        sl.Structure()


def test_event_shape_may_be_set_or_left():
    class Labelled(Pair):
        def __init__(self):
            self.event_shape = torch.Size([])

    assert Pair().event_shape == (6,)
    assert Labelled().event_shape == ()


def with_union(scores: Tensor | None):
    return with_hint(scores)


def with_hint(scores: Tensor):
    assert isinstance(scores, Tensor)
    return neighbours(scores.numpy())


def in_batches(scores):
    assert isinstance(scores, Tensor)
    return Pair().argmax(scores)


def in_arrays(scores: np.ndarray):
    assert isinstance(scores, np.ndarray)
    return np.stack([neighbours(row) for row in scores])


@pytest.mark.parametrize(
    ("fn", "batched"),
    [
        (neighbours, False),
        (lambda s: neighbours(s).astype(bool), False),
        (lambda s: neighbours(s).tolist(), False),
        (lambda s: neighbours(s).astype(np.int8), False),
        (with_hint, False),
        (with_union, False),
        (in_batches, True),
        (in_arrays, True),
    ],
)
def test_from_argmax(fn, batched):
    structure = sl.Structure.from_argmax(fn, (6,), batched=batched)
    check_structure(structure)
    assert structure.cardinality() == 5
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sl.sparsemap(structure, x).mean, sl.sparsemap(Pair(), x).mean)


def test_from_argmax_gets_finite_float64_to_maximise():
    seen = []

    def fn(scores):
        seen.append(scores)
        return neighbours(scores)

    x = torch.tensor([[0.0, -torch.inf, 1.0, 2.0, -3.0, 0.5]])
    sl.argmax(sl.Structure.from_argmax(fn, (6,)), x)
    assert seen[0].dtype == np.float64
    assert np.isfinite(seen[0]).all()
    assert seen[0][1] < -6.5


def gives_none(scores):
    return None if (scores < -1e3).all() else neighbours(scores)


def gives_up(scores):
    if (scores < -1e3).all():
        raise ValueError("no pair is left")
    return neighbours(scores)


class Raises(Pair):
    """A batched oracle that raises for the whole batch where one row is infeasible."""

    def argmax(self, scores):
        if torch.isneginf(scores).all(-1).any():
            raise ValueError("no pair is left")
        return super().argmax(scores)


@pytest.mark.parametrize(
    "structure",
    [Raises(), *(sl.Structure.from_argmax(fn, (6,)) for fn in (gives_none, gives_up))],
    ids=["raises", "none", "value_error"],
)
def test_an_oracle_that_gives_up_on_a_row(structure):
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).double()
    fine = sl.sparsemap(Pair(), x)
    x[1] = -2000.0 if structure.__class__ is not Raises else -torch.inf
    with pytest.raises(sl.InfeasibleError, match=r"row 1 \(1 of 3\)"):
        sl.sparsemap(structure, x)
    keep = [0, 2]
    torch.testing.assert_close(sl.sparsemap(structure, x[keep]).mean, fine.mean[keep])
    if isinstance(structure, Raises):
        _, valid = structure.topk(x, k=3)
        assert valid.tolist() == [[True] * 3, [False] * 3, [True] * 3]


def test_the_reason_of_an_oracle_is_passed_on():
    structure = sl.Structure.from_argmax(lambda s: 1 / 0, (6,))
    with pytest.raises(ZeroDivisionError):
        sl.argmax(structure, torch.zeros(6))
    with pytest.raises(sl.InfeasibleError, match="its argmax said: no pair is left"):
        sl.argmax(Raises(), torch.full((6,), -torch.inf))


def test_a_wrong_shape_is_refused():
    with pytest.raises(sl.ArgumentError, match=r"fn: returned an array of shape \(5,\); expected \(6,\)"):
        sl.argmax(sl.Structure.from_argmax(lambda s: np.zeros(5), (6,)), torch.zeros(6))

    class Short(Pair):
        def argmax(self, scores):
            return super().argmax(scores)[:, :3]

    with pytest.raises(sl.ArgumentError, match=r"Short.argmax: returned shape \(2, 3\); expected .*\(2, 6\)"):
        sl.sparsemap(Short(), torch.zeros(2, 6))


class Fraction(Pair):
    def argmax(self, scores):
        return super().argmax(scores) / 2


class Stranger(Pair):
    """Answers the gradient with the best single part, which is no pair."""

    def argmax(self, scores):
        return torch.nn.functional.one_hot(scores.argmax(-1), 6).to(scores.dtype)

    def contains(self, z):
        return Pair().contains(z)


class Second(Pair):
    """Not a maximum: the second best."""

    def argmax(self, scores):
        return Pair().topk(scores, k=2)[0][:, 1]


class Moody(Pair):
    """Different answers to the same scores."""

    calls = 0

    def argmax(self, scores):
        self.calls += 1
        return super().argmax(scores if self.calls % 2 else -scores)


class Doubled(Pair):
    """Scores everything twice."""

    def score(self, z, scores, *extra):
        return 2 * super().score(z, scores)


class Detached(Pair):
    """Loses the gradient."""

    def score(self, z, scores, *extra):
        return super().score(z, scores.detach())


class Nested(sl.Structure):
    """The first n parts, for n up to 4: no antichain, whatever it says."""

    shape = (4,)
    antichain = True

    def argmax(self, scores):
        total = torch.cat([torch.zeros(len(scores), 1, dtype=scores.dtype), scores.cumsum(-1)], -1)
        return (torch.arange(4) < total.argmax(-1, keepdim=True)).to(scores.dtype)


class Greedy(Pair):
    """Ignores -inf."""

    def argmax(self, scores):
        return super().argmax(torch.where(torch.isneginf(scores), 0, scores))


@pytest.mark.parametrize("wrong", [Fraction(), Stranger()])
def test_validate_catches_what_is_no_vertex(wrong):
    with pytest.raises(sl.ArgumentError, match=r"argmax: returned what is no"):
        sl.sparsemap(wrong, torch.randn(2, 6), validate=True)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (Fraction(), "vertex: not a vector of 0 and 1"),
        (Stranger(), "contains: denies"),
        (Second(), "argmax"),
        (Moody(), "argmax gave two answers|argmax on the batch|enumerate"),
        (Greedy(), "argmax|topk"),
        (Doubled(), "score: its gradient"),
        (Detached(), "score: its gradient"),
        (Nested(), "antichain: it is True"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_check_structure_catches(wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_structure(wrong)


def test_extra_needs_a_score():
    class Wants(Pair):
        extra_shapes = (torch.Size([2]),)

        def argmax(self, scores, extra):
            return super().argmax(scores)

    with pytest.raises(NotImplementedError, match="its `score` must say"):
        sl.sparsemap(Wants(), torch.zeros(2, 6), torch.zeros(2))


def test_large_enumerations_are_refused_not_run():
    structure = sl.Structure.from_argmax(lambda s: s > 0, (30,))
    with pytest.raises(sl.ArgumentError, match="more than 100 structures"):
        structure.enumerate(limit=100)


def test_an_oracle_that_takes_one_row_at_a_time():
    class OneByOne(Pair):
        def argmax(self, scores):
            if len(scores) > 1:
                raise ValueError("one row, please")
            return super().argmax(scores)

    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sl.sparsemap(OneByOne(), x).mean, sl.sparsemap(Pair(), x).mean)
