import copy
import pickle

import numpy as np
import pytest
import torch

import structlat as sl
from structlat.structure import Structure
from structlat.structures.product import Product
from structlat.structures.restricted import Restricted
from structlat.tractable import Tractable
from tests.judge import draw, forbid
from tests.structlat.structures.test_product import Lights, used_in_chain
from tests.structure_tests import StructureTests


def parts(shape, *index):
    """A bool tensor that is True at ``index``."""
    out = torch.zeros(shape, dtype=torch.bool)
    for i in index:
        out[i] = True
    return out


class TestRestricted(StructureTests):
    cases = (
        Restricted(sl.BitVector(4), on=parts(4, 0), off=parts(4, 3)),
        Restricted(sl.BudgetBitVector(5, 3, exact=True, symmetric=False), on=parts(5, 1, 4)),
        Restricted(sl.LinearChain(3, 3), on=parts((3, 3), (1, 2)), off=parts((3, 3), (0, 1))),
        Restricted(sl.BipartiteMatching(3, 3, partial=True), on=parts((3, 3), (0, 1))),
    )
    counts = (4, 3, 6, 7)

    @staticmethod
    def used_extra(structure, z):
        return [used_in_chain(structure.space, z)] if structure.extra_shapes else []


def pinned(length, states, positions):
    """Labels fixed by a restriction, and by forbidding all others: the same chains, by ways that share nothing."""
    on = parts((length, states), *positions)
    chain = sl.LinearChain(length, states)

    def masked(unary):
        return torch.where(on.any(-1, keepdim=True) & ~on, -torch.inf, unary)

    return chain, Restricted(chain, on=on), masked


# Against the space itself with what is in the way forbidden.


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6])
def test_a_fixed_label_is_one_without_alternatives(generator, scale):
    chain, space, masked = pinned(12, 4, [(0, 1), (5, 3), (6, 0), (11, 2)])
    unary, transition = (x.requires_grad_() for x in draw(chain, generator, 3, scale))
    assert torch.equal(sl.argmax(space, unary, transition), sl.argmax(chain, masked(unary), transition))
    z, valid = space.topk(unary.detach(), transition.detach(), k=9)
    other, _ = chain.topk(masked(unary.detach()), transition.detach(), k=9)
    assert valid.all()
    assert torch.equal(z, other)
    for total in (
        lambda s, *x: s.log_partition(*x),
        lambda s, *x: sl.Gibbs(s, *x).entropy(),
        lambda s, *x: sl.sparsemap(s, *x, on_failure="raise").mean.sin().flatten(1).sum(-1),
    ):
        got, want = total(space, unary, transition), total(chain, masked(unary), transition)
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-9 * max(1.0, scale / 100))
        ours, theirs = (torch.autograd.grad(x.sum(), (unary, transition), allow_unused=True) for x in (got, want))
        for a, b in zip(ours, theirs, strict=True):
            if b is None:
                continue
            # the forbidden labels have no slope; the fixed ones, masked or not, have the same
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8 * max(1.0, scale / 100))


def test_samples_are_those_of_the_mask():
    chain, space, masked = pinned(6, 3, [(2, 1), (4, 0)])
    unary, transition = draw(chain, torch.Generator().manual_seed(3), 1, 2.0)
    z = space.sample(unary, transition, shape=(4000,), generator=torch.Generator().manual_seed(4))
    assert (z[..., 2] == 1).all()
    assert (z[..., 4] == 0).all()
    mean = chain.marginals(masked(unary), transition)
    assert (space.vertex(z).double().mean(0) - mean).abs().max() < 5 * 0.5 / 4000**0.5
    assert (space.vertex(z).double().mean(0) - chain.marginals(unary, transition)).abs().max() > 0.1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_sums_of_many_fixed_bits(generator, scale):
    n = 300
    on, off = torch.zeros(2, n, dtype=torch.bool)
    on[::3], off[1::3] = True, True
    space = Restricted(sl.BitVector(n), on=on, off=off)
    x = (scale * torch.randn(2, n, generator=generator, dtype=torch.float64)).requires_grad_()
    total = space.log_partition(x)
    want = x[:, on].sum(-1) + sl.BitVector(100).log_partition(x[:, 2::3])
    torch.testing.assert_close(total, want, rtol=1e-13, atol=1e-9)
    (slope,) = torch.autograd.grad(total.sum(), x)
    assert (slope[:, on] == 1).all()
    assert (slope[:, off] == 0).all()
    torch.testing.assert_close(slope[:, 2::3], x[:, 2::3].sigmoid(), rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("space", TestRestricted.cases[:3], ids=repr)
def test_softmax_is_conditioned_on_what_is_fixed(generator, space):
    inputs = forbid(space, draw(space, generator, 3), generator)
    inside = space.contains(space.space.enumerate())
    full = sl.Gibbs(space.space, *inputs)
    log_p = full.log_prob(space.space.enumerate().unsqueeze(1).expand(-1, 3, *space.event_shape))[inside]
    got = sl.Gibbs(space, *inputs).log_prob(space.enumerate().unsqueeze(1).expand(-1, 3, *space.event_shape))
    torch.testing.assert_close(got, log_p - log_p.logsumexp(0))


# Any space.


def test_a_space_that_has_only_argmax():
    member = Product(Lights(), Lights())
    space = Restricted(member, on=parts(4, 1), off=parts(4, 2))
    sl.testing.check_structure(space)
    assert space.enumerate().tolist() == [[0, 1, 0, 1]]
    with pytest.raises(NotImplementedError, match=r"log_partition: Restricted\(Product.* in it has none: it brings"):
        space.log_partition(torch.zeros(4))
    user = sl.Structure.from_argmax(lambda s: np.eye(3)[s.argmax()], 3)
    sl.testing.check_structure(Restricted(user, off=parts(3, 0)))


def test_restrictions_of_restrictions(generator):
    once = Restricted(Restricted(sl.BitVector(5), on=parts(5, 0)), on=parts(5, 3), off=parts(5, 4))
    both = Restricted(sl.BitVector(5), on=parts(5, 0, 3), off=parts(5, 4))
    x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    for call in (
        lambda s: sl.sparsemap(s, x).mean,
        lambda s: sl.argmax(s, x),
        lambda s: s.log_partition(x),
        lambda s: s.marginals(x),
        lambda s: s.topk(x, k=6)[0],
        lambda s: s.enumerate(),
    ):
        torch.testing.assert_close(call(once), call(both), rtol=0, atol=1e-9)


def test_a_budget_a_row(generator):
    budgets = torch.tensor([1, 2, 4])
    space = Restricted(sl.BudgetBitVector(4, budgets, exact=True), on=parts(4, 2))
    sl.testing.check_structure(space, rows=2)
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    post, gibbs = sl.sparsemap(space, x), sl.Gibbs(space, x)
    for row in range(3):
        alone = Restricted(sl.BudgetBitVector(4, int(budgets[row]), exact=True), on=parts(4, 2))
        torch.testing.assert_close(post.mean[row], sl.sparsemap(alone, x[row]).mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(gibbs.mean[row], alone.marginals(x[row]))
    # in one of the rows a restriction may leave nothing
    tight = Restricted(sl.BudgetBitVector(4, budgets, exact=True), on=parts(4, 0, 1))
    with pytest.raises(sl.InfeasibleError, match=r"row 0 \(1 of 3\)"):
        sl.argmax(tight, x)


def test_where_the_space_is_too_large_to_look_through():
    on, off = parts(20, *range(10)), parts(20, *range(13, 20))
    space = Restricted(sl.BitVector(20), on=on, off=off)
    every = space.enumerate()
    assert space.cardinality() == len(torch.unique(every, dim=0)) == 8
    assert space.contains(every).all()
    with pytest.raises(sl.ArgumentError, match="more than 7"):
        space.enumerate(limit=7)


def test_nothing_fixed_is_the_space_itself(generator):
    space = Restricted(sl.Categorical(4))
    x = torch.randn(3, 4, generator=generator)
    assert torch.equal(space.enumerate(), sl.Categorical(4).enumerate())
    torch.testing.assert_close(sl.sparsemap(space, x).mean, sl.sparsemap(sl.Categorical(4), x).mean)
    torch.testing.assert_close(space.log_partition(x), torch.logsumexp(x, -1))


def test_compiled(generator):
    for space in TestRestricted.cases[:2]:
        x = draw(space, generator, 3)[0].requires_grad_()
        torch.compiler.reset()
        got = torch.compile(space.log_partition, backend="aot_eager", fullgraph=True)(x)
        want = space.log_partition(x)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got.sum(), x), torch.autograd.grad(want.sum(), x))


def test_copies(generator):
    for space in TestRestricted.cases:
        for same in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
            assert type(same) is type(space)
            assert repr(same) == repr(space)
            assert isinstance(same, Tractable) == isinstance(space, Tractable)
            inputs = draw(space, generator, 2)
            assert torch.equal(sl.argmax(same, *inputs), sl.argmax(space, *inputs))
    on = parts(3, 0)
    space = Restricted(sl.BitVector(3), on=on)
    on[1] = True
    assert repr(space) == "Restricted(BitVector(3, symmetric=True), on=[0])"


# What is refused.


def test_a_forced_part_that_is_forbidden(generator):
    for space in TestRestricted.cases[1:]:
        inputs = [x.requires_grad_() for x in draw(space, generator, 3)]
        masked = torch.where(
            space.on & (torch.arange(3) == 1).reshape(-1, *(1,) * len(space.shape)), -torch.inf, inputs[0]
        )
        with pytest.raises(sl.InfeasibleError, match=r"row 1 \(1 of 3\)"):
            sl.argmax(space, masked, *inputs[1:])
        _, valid = space.topk(masked.detach(), *(x.detach() for x in inputs[1:]), k=2)
        assert valid[:, 0].tolist() == [True, False, True]
        if isinstance(space, Tractable):
            total = space.log_partition(masked, *inputs[1:])
            assert torch.isneginf(total).tolist() == [False, True, False]
            for slope in torch.autograd.grad(total.sum(), inputs):
                assert torch.isfinite(slope).all()
                assert (slope[1] == 0).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Restricted(sl.Categorical), "space: got <class .*expected an instance"),
        (lambda: Restricted(sl.Categorical(4), on=torch.tensor([0, 1])), r"on: got torch.int64 \(2,\); .*\(4,\)"),
        (lambda: Restricted(sl.Categorical(4), off=parts(3)), r"off: got torch.bool \(3,\); .*\(4,\)"),
        (lambda: Restricted(sl.Categorical(4), on=[True] * 4), "on: got list"),
        (
            lambda: Restricted(sl.LinearChain(2, 2), on=parts((2, 2), (0, 1)), off=parts((2, 2), (0, 1), (1, 0))),
            r"on, off: got part \(0, 1\) in both",
        ),
        (
            lambda: Restricted(sl.Categorical(4), on=parts(4, 0, 2)),
            r"on: no structure of Categorical\(4\) has parts 0, 2;",
        ),
        (
            lambda: Restricted(sl.BudgetBitVector(3, 2, exact=True), on=parts(3, 0), off=parts(3, 1, 2)),
            r"on, off: no structure of BudgetBitVector.* has part 0 and lacks parts 1, 2; expected at least one",
        ),
        (
            lambda: Restricted(sl.BudgetBitVector(20, 3), on=torch.ones(20, dtype=torch.bool)),
            r"has parts 0, 1, 2, 3, 4, 5, 6, 7, \.\.\. \(20\)",
        ),
    ],
)
def test_nonsense(call, text):
    with pytest.raises(sl.ArgumentError, match=text):
        call()


def test_the_defaults_of_a_structure_see_the_restriction():
    space = TestRestricted.cases[0]
    vectors = sl.BitVector(4).enumerate()
    assert torch.equal(Structure.contains(space, vectors), space.contains(vectors))
    assert int(space.contains(vectors).sum()) == 4
