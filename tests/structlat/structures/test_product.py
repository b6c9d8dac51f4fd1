import copy
import itertools
import pickle

import pytest
import torch

import structlat as sl
from structlat.structures._pairs import best_pairs
from structlat.structures.product import Product
from structlat.tractable import Tractable
from tests.judge import draw
from tests.structure_tests import StructureTests


class Lights(sl.Structure):
    """A user's space with nothing but ``argmax``: one of two lights."""

    shape = torch.Size([2])

    def argmax(self, scores, *extra):
        if torch.isneginf(scores).all(-1).any():
            raise ValueError("no light at all")
        return torch.eye(2, dtype=scores.dtype)[scores.argmax(-1)]


class Summed(Lights):
    """A user's space with sums of its own, without being :class:`Tractable`."""

    def log_partition(self, scores, *extra):
        return torch.logsumexp(scores, -1)

    def sample(self, scores, *extra, shape=(), generator=None):
        draws = torch.rand(*shape, *scores.shape[:-1], dtype=scores.dtype, generator=generator)
        return torch.eye(2, dtype=scores.dtype)[(draws > scores.softmax(-1)[..., 0]).long()]


def used_in_chain(chain, labels):
    return [(t, *pair) for t, pair in enumerate(itertools.pairwise(labels.tolist()))]


class TestProduct(StructureTests):
    cases = (
        Product(sl.Categorical(3)),
        Product(sl.BudgetBitVector(3, 1), sl.BitVector(2)),
        Product(sl.Categorical(2), Product(sl.Categorical(1), sl.Categorical(2))),
        Product(sl.LinearChain(2, 2), sl.BitVector(1, symmetric=False), sl.LinearChain(3, 1)),
        Product(sl.BipartiteMatching(2, 2), sl.Categorical(3)),
    )
    counts = (3, 16, 4, 8, 6)

    @staticmethod
    def used_extra(structure, z):
        parts = structure.split(z)
        chains = [(s, part) for s, part in zip(structure.spaces, parts, strict=True) if isinstance(s, sl.LinearChain)]
        return [used_in_chain(*chain) for chain in chains]


# What it is made of.


def test_scores_and_structures_by_member(generator):
    space = Product(sl.LinearChain(2, 3), sl.BitVector(2, symmetric=False), sl.BipartiteMatching(2, 2))
    assert space.shape == (12,)
    assert space.event_shape == (6,)
    assert space.extra_shapes == ((1, 3, 3),)
    unary, bits, pairs = (torch.randn(4, *s.shape, generator=generator) for s in space.spaces)
    transition = torch.randn(3, 3, generator=generator)
    z = sl.argmax(space, space.join(unary, bits, pairs), transition)
    assert z.dtype == torch.float32
    labels, on, columns = space.split(z)
    for got, member, inputs in (
        (labels, space.spaces[0], (unary, transition)),
        (on, space.spaces[1], (bits,)),
        (columns, space.spaces[2], (pairs,)),
    ):
        assert torch.equal(got, sl.argmax(member, *inputs))
        assert got.dtype == sl.argmax(member, *inputs).dtype
    for a, b in zip(space.split_scores(space.join(unary, bits, pairs)), (unary, bits, pairs), strict=True):
        assert torch.equal(a, b)
    shared = space.join(unary, bits[0], pairs[:1])
    assert torch.equal(space.split_scores(shared)[1], bits[0].expand(4, 2))
    assert Product(sl.Categorical(2), sl.LinearChain(2, 2)).event_dtype == torch.int64


def test_everything_that_is_unique_is_the_members_own(generator):
    space = Product(sl.LinearChain(3, 2), sl.BudgetBitVector(4, 2, exact=True, symmetric=False), sl.Categorical(3))
    parts = [torch.randn(5, *s.shape, generator=generator, dtype=torch.float64) for s in space.spaces]
    transition = torch.randn(5, 2, 2, 2, generator=generator, dtype=torch.float64)
    post = sl.sparsemap(space, space.join(*parts), transition, gamma=0.7, on_failure="raise")
    gibbs = sl.Gibbs(space, space.join(*parts), transition)
    total = torch.zeros(5, dtype=torch.float64)
    entropy = torch.zeros_like(total)
    for i, (member, x) in enumerate(zip(space.spaces, parts, strict=True)):
        extra = (transition,) if i == 0 else ()
        alone = sl.sparsemap(member, x, *extra, gamma=0.7)
        torch.testing.assert_close(space.split_scores(post.mean)[i], alone.mean, rtol=0, atol=1e-8)
        total = total + member.log_partition(x, *extra)
        entropy = entropy + sl.Gibbs(member, x, *extra).entropy()
        torch.testing.assert_close(space.split_scores(gibbs.mean)[i], member.marginals(x, *extra))
    torch.testing.assert_close(gibbs.log_partition, total)
    torch.testing.assert_close(gibbs.entropy(), entropy)
    torch.testing.assert_close(
        gibbs.extra_marginals[0], sl.Gibbs(space.spaces[0], parts[0], transition).extra_marginals[0]
    )


def test_a_row_of_labels_is_a_chain_without_transitions(generator):
    """At a size that nobody enumerates: 3^30 structures."""
    space, chain = Product(*[sl.Categorical(3)] * 30), sl.LinearChain(30, 3)
    x = torch.randn(4, 30, 3, generator=generator, dtype=torch.float64)
    none = torch.zeros(4, 29, 3, 3, dtype=torch.float64)
    x[0] = x[0].round()
    joined = space.join(*x.unbind(1))
    assert space.cardinality() == chain.cardinality()
    torch.testing.assert_close(space.log_partition(joined), chain.log_partition(x, none))
    for k in (1, 7, 200):
        z, valid = space.topk(joined, k=k)
        other, _ = chain.topk(x, none, k=k)
        assert valid.all()
        assert len(torch.unique(z[0], dim=0)) == k
        got, want = space.score(z, joined.unsqueeze(1)), chain.score(other, x.unsqueeze(1), none.unsqueeze(1))
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)
        if k > 1:
            assert torch.equal(z[1:], other[1:])


def test_a_member_that_has_only_argmax(generator):
    space = Product(Lights(), sl.Categorical(3), Lights())
    sl.testing.check_structure(space)
    assert space.cardinality() == 12
    with pytest.raises(NotImplementedError, match=r"log_partition: Product\(.*Lights.* in it has none: it brings"):
        space.log_partition(torch.zeros(7))


def test_a_member_with_sums_of_its_own(generator):
    space = Product(Summed(), sl.BitVector(2, symmetric=False))
    assert isinstance(space, Tractable)
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    every = space.enumerate()
    s = every @ x.T
    torch.testing.assert_close(space.log_partition(x), torch.logsumexp(s, 0))
    torch.testing.assert_close(space.marginals(x), torch.softmax(s, 0).T @ every)
    z = space.sample(x, shape=(3000,), generator=generator)
    assert space.contains(z).all()
    assert (z.mean(0) - space.marginals(x)).abs().max() < 5 * 0.5 / 3000**0.5


def test_members_that_differ_by_row(generator):
    budgets = torch.tensor([1, 2, 3])
    space = Product(sl.BudgetBitVector(3, budgets, symmetric=False), sl.LinearChain(2, 2))
    sl.testing.check_structure(space, rows=2)
    x = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    transition = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    post, gibbs = sl.sparsemap(space, x, transition), sl.Gibbs(space, x, transition)
    drawn = gibbs.sample((20,), generator=generator)
    for row in range(3):
        alone = Product(sl.BudgetBitVector(3, int(budgets[row]), symmetric=False), sl.LinearChain(2, 2))
        one = sl.sparsemap(alone, x[row], transition)
        torch.testing.assert_close(post.mean[row], one.mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(post.extra_marginals[0][row], one.extra_marginals[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(gibbs.log_partition[row], alone.log_partition(x[row], transition))
        assert alone.contains(drawn[:, row]).all()
    assert len(post.extra_marginals) == len(gibbs.extra_marginals) == 1


def test_copies(generator):
    for space in (
        Product(sl.Categorical(2), sl.BitVector(2, symmetric=False)),
        Product(sl.BipartiteMatching(2, 2), sl.Categorical(2)),
    ):
        x = torch.randn(3, *space.shape, generator=generator)
        for same in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
            assert type(same) is type(space)
            assert repr(same) == repr(space)
            assert torch.equal(sl.argmax(same, x), sl.argmax(space, x))


# k best.


@pytest.mark.parametrize("kind", ["normal", "integer", "equal"])
def test_the_best_pairs_are_the_best_of_all(generator, kind):
    """In order, none twice, ties as it is said: against every combination, sorted."""
    sizes = (3, 1, 4, 2)
    lists = [draw(sl.Categorical(n), generator, 6, kind=kind)[0].sort(-1, descending=True).values for n in sizes]
    lists[2][1:3, 2:] = -torch.inf
    lists[0][4] = -torch.inf

    def key(row, place):
        """Total, then the key of all lists but the last, then the place in the last."""
        total = 0.0
        keys = ()
        for x, at in zip(lists, place, strict=True):
            total += float(x[row, at])
            keys = (-total, keys, at)
        return keys

    for row in range(6):
        places = sorted(itertools.product(*map(range, sizes)), key=lambda place, row=row: key(row, place))
        totals = torch.tensor([-key(row, place)[0] for place in places], dtype=torch.float64)
        for k in (1, 2, 3, 5, 8, 23, 24, 25, 40):
            index, total = best_pairs([x[row : row + 1, :k] for x in lists], k)
            m = min(k, 24)
            assert torch.equal(total[0, :m], totals[:m])
            assert torch.isneginf(total[0, m:]).all()
            there = torch.isfinite(totals[:m])
            assert torch.equal(index[:, 0, :m].T[there], torch.tensor(places[:m])[there])


def test_k_best_pairs_are_not_k_squared():
    x = torch.arange(20_000, 0, -1, dtype=torch.float64).expand(1, -1)
    index, total = best_pairs([x, 1e-6 * x], 20_000)
    assert index.shape == (2, 1, 20_000)
    assert (total[:, 1:] <= total[:, :-1]).all()
    assert (index[0] == 0).all()  # the second list moves less in all than the first in one step


# What is refused.


def test_infeasible_rows_are_those_of_any_member():
    space = Product(Lights(), sl.Categorical(2), sl.BitVector(1, symmetric=False))
    x = torch.zeros(4, 5)
    x[1, :2] = -torch.inf
    x[2, 2:4] = -torch.inf
    for call in (sl.argmax, sl.sparsemap, sl.topk_sparsemax, sl.marginalize):
        with pytest.raises(sl.InfeasibleError, match=r"rows 1, 2 \(2 of 4\)"):
            call(space, x)
    tractable = Product(sl.Categorical(2), sl.Categorical(2))
    y = torch.zeros(2, 4, dtype=torch.float64)
    y[1, :2] = -torch.inf
    y.requires_grad_()
    total = tractable.log_partition(y)
    (slope,) = torch.autograd.grad(total.sum(), y)
    assert torch.isneginf(total).tolist() == [False, True]
    assert slope.tolist() == [[0.5] * 4, [0.0] * 4]


def test_labels_that_are_no_whole_numbers_are_no_structure():
    space = Product(sl.Categorical(2), sl.BitVector(1, symmetric=False))
    z = torch.tensor([[1.0, 1.0], [0.5, 1.0], [2.0, 0.0], [0.0, 0.5]])
    assert space.contains(z).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Product(), "spaces: got none"),
        (lambda: Product(sl.Categorical(2), sl.Categorical), r"spaces\[1\]: got <class .*expected an instance"),
        (lambda: Product(sl.Categorical(2), sl.BitVector(3)), r"spaces: got BitVector\(3, symmetric=True\) with symm"),
        (lambda: Product(sl.Categorical(2)).join(), "scores: got 0 tensors; expected 1"),
        (lambda: Product(sl.LinearChain(2, 3)).join(torch.zeros(4, 3)), r"scores\[0\]: got shape \(4, 3\)"),
        (
            lambda: Product(sl.Categorical(2), sl.Categorical(1)).join(torch.zeros(2, 2), torch.zeros(3, 1)),
            r"scores: got batch shapes \[\(2,\), \(3,\)\]",
        ),
        (lambda: Product(sl.Categorical(2)).split(torch.zeros(3, 2)), r"z: got shape \(3, 2\)"),
        (
            lambda: Product(sl.Categorical(2)).split_scores(torch.zeros(3)),
            r"x: got shape \(3,\); expected \[\*batch, 2\]",
        ),
        (lambda: Product(sl.Categorical(5), sl.Categorical(5)).enumerate(limit=24), "limit: .* 25 structures"),
    ],
)
def test_nonsense(call, text):
    with pytest.raises(sl.ArgumentError, match=text):
        call()
