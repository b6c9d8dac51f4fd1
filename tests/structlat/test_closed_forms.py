"""SparseMAP in closed form: against the enumerated program, the active set and finite differences, at every size."""

import pytest
import torch

import structlat as sl
from tests.judge import SCALES, draw, enumerated_sparsemap, forbid

SMALL = (
    sl.Categorical(5),
    sl.BitVector(6),
    sl.BitVector(6, symmetric=False),
    sl.BitVector(6, decomposition="flips"),
    *(
        sl.BudgetBitVector(6, budget, exact=exact, symmetric=symmetric)
        for budget in (0, 1, 3, 5, 6)
        for exact in (False, True)
        for symmetric in (False, True)
    ),
)
LARGE = (
    sl.BitVector(128),
    sl.BitVector(128, decomposition="flips"),
    sl.BudgetBitVector(128, 64),
    sl.BudgetBitVector(128, 10, exact=True),
    sl.BudgetBitVector(100, 99, symmetric=False),
    sl.BudgetBitVector(1000, 300),
    sl.BudgetBitVector(1000, 300, exact=True),
)
KINDS = ("normal", "integer", "equal", "base")


def closed(structure, scores, **options):
    post = sl.sparsemap(structure, scores, **options)
    assert (post.info.iterations == 0).all(), "no closed form was taken"
    return post


def judge_p(post, tol=1e-12):
    """P is a distribution over structures of the space, with the marginals as its mean."""
    assert (post.probs >= 0).all()
    torch.testing.assert_close(post.probs.sum(-1), torch.ones_like(post.probs[..., 0]), atol=tol, rtol=0)
    assert post.structure.contains(post.structures).all()
    mean = (post.probs.unsqueeze(-1) * post.vertices).sum(-2)
    torch.testing.assert_close(mean, post.mean, atol=tol, rtol=0)
    assert (post.probs[~post.mask] == 0).all()
    assert (post.probs[post.mask] > 0).all()
    assert (post.probs[..., 1:] <= post.probs[..., :-1]).all()


@pytest.mark.parametrize("structure", SMALL, ids=repr)
@pytest.mark.parametrize("masked", [False, True])
def test_against_the_enumerated_program(structure, generator, masked):
    for kind in KINDS:
        for gamma in (0.3, 1.0, 2.5):
            for scale in (1e-2, 1.0, 10.0):
                inputs = draw(structure, generator, 3, scale, kind)
                if masked:
                    inputs = forbid(structure, inputs, generator)
                post = closed(structure, *inputs, gamma=gamma)
                want = enumerated_sparsemap(structure, inputs[0], (), gamma)
                assert (post.mean - want).abs().max() < 1e-8
                judge_p(post)


@pytest.mark.parametrize("structure", SMALL + LARGE, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_p_at_every_scale(structure, generator, kind):
    for scale in (1e-10, *SCALES):
        judge_p(closed(structure, *draw(structure, generator, 5, scale, kind)))


@pytest.mark.nightly
def test_combs_never_miscount():
    """Ones are counted exactly whatever the marginals: rounding has broken this construction elsewhere."""
    generator = torch.Generator().manual_seed(7)
    for n in (2, 3, 7, 32, 128, 1000):
        for exact in (False, True):
            for trial in range(40):
                budget = int(torch.randint(0, n + 1, (1,), generator=generator))
                structure = sl.BudgetBitVector(n, budget, exact=exact, symmetric=bool(trial % 2))
                kind, scale = KINDS[trial % 4], 10.0 ** (trial % 9 - 4)
                judge_p(closed(structure, *draw(structure, generator, 4, scale, kind)))


@pytest.mark.parametrize("structure", LARGE[:5], ids=repr)
def test_against_the_active_set(structure, generator):
    """The two share nothing: means and, with the face completed, Jacobians have to agree."""
    for scale in (0.3, 1.0, 3.0):
        x = draw(structure, generator, 3, scale)[0].requires_grad_()
        mean, other = closed(structure, x).mean, sl.sparsemap(structure, x, solver="active_set").mean
        torch.testing.assert_close(mean, other, atol=1e-7, rtol=0)
        for _ in range(3):
            weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            got = torch.autograd.grad(mean, x, weight, retain_graph=True)[0]
            want = torch.autograd.grad(other, x, weight, retain_graph=True)[0]
            torch.testing.assert_close(got, want, atol=1e-7, rtol=0)


@pytest.mark.parametrize("structure", SMALL, ids=repr)
def test_derivatives(structure, generator):
    x = draw(structure, generator, 2)[0].requires_grad_()
    gamma = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def mean(x, gamma):
        return sl.sparsemap(structure, x, gamma=gamma).mean

    assert torch.autograd.gradcheck(mean, (x, gamma))
    assert torch.autograd.gradgradcheck(mean, (x, gamma))


@pytest.mark.parametrize("structure", [SMALL[1], SMALL[7], SMALL[10], LARGE[0], LARGE[2], LARGE[3]], ids=repr)
def test_p_has_the_derivative_of_its_support(structure, generator):
    """Through p, with the structures held fixed, come the marginals' own derivatives and those of any loss."""
    x = draw(structure, generator, 3)[0].requires_grad_()
    post = closed(structure, x)
    weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    through_p = torch.autograd.grad(post.expect(lambda z, i: (z * weight[i]).sum(-1)).sum(), x)[0]
    torch.testing.assert_close(through_p, torch.autograd.grad(post.mean, x, weight)[0], atol=1e-9, rtol=0)
    coefficient = torch.randn(post.probs.shape, generator=generator, dtype=torch.float64)

    def fixed(x):
        again = sl.sparsemap(structure, x)
        keep = (again.structures.unsqueeze(2) == post.structures.unsqueeze(1)).all(-1).double()
        return (again.probs.unsqueeze(-1) * keep * (coefficient * post.mask).unsqueeze(1)).sum()

    got = torch.autograd.grad(fixed(x), x)[0]
    step = 1e-7 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        difference = fixed(x + step) - fixed(x - step)
    torch.testing.assert_close(2 * (got * step).sum(), difference, rtol=1e-3, atol=1e-11)


def test_all_equal_scores_have_a_gradient():
    """A zero-initialised encoder: half of the bits on each, and every one of them learns."""
    for structure in (sl.BitVector(8), sl.BudgetBitVector(8, 4), sl.BudgetBitVector(8, 3, exact=True)):
        x = torch.zeros(2, 8, dtype=torch.float64, requires_grad=True)
        weight = torch.arange(1, 9, dtype=torch.float64)
        gradient = torch.autograd.grad((closed(structure, x).mean * weight).sum(), x)[0]
        assert (gradient != 0).all()


def test_two_decompositions_of_one_mean(generator):
    """Levels are spread out and continuous, flips are concentrated on the MAP structure."""
    x = draw(sl.BitVector(32), generator, 64)[0]
    levels = closed(sl.BitVector(32), x)
    flips = closed(sl.BitVector(32, decomposition="flips"), x)
    torch.testing.assert_close(levels.mean, flips.mean, atol=0, rtol=0)
    best = sl.argmax(sl.BitVector(32), x)

    def of_map(post):
        return post.log_prob(best).exp().mean()

    assert of_map(flips) > 0.3 > 0.15 > of_map(levels)
    near = closed(sl.BitVector(32), x + 1e-9)
    jump = (near.expect(lambda z, i: z[:, 0] * z[:, 1]) - levels.expect(lambda z, i: z[:, 0] * z[:, 1])).abs().max()
    assert jump < 1e-7


def test_marginals_make_no_structure(monkeypatch):
    """What nobody reads is not made: 1,000 bits would have some 700 structures of 1,000 entries each, a row."""
    from structlat.structures import _bits_forms

    def never(*args):
        raise AssertionError("a structure was made")

    monkeypatch.setattr(_bits_forms, "_before", never)
    x = torch.randn(4, 1000, requires_grad=True)
    for structure in (sl.BitVector(1000), sl.BudgetBitVector(1000, 500)):
        post = sl.sparsemap(structure, x)
        post.mean.sum().backward()
        assert post.entropy().shape == (4,)
        with pytest.raises(AssertionError, match="a structure was made"):
            _ = post.structures


def test_parts_read_without_a_graph_have_one_later(generator):
    x = draw(sl.BitVector(6), generator, 3)[0].requires_grad_()
    for solver in ("auto", "active_set"):
        post = sl.sparsemap(sl.BitVector(6), x, solver=solver)
        with torch.no_grad():
            assert post.structures.shape[-1] == 6
            size = post.support_size
        assert torch.autograd.grad(post.probs.square().sum(), x)[0].abs().sum() > 0
        assert torch.equal(size, post.support_size)


def test_later_changes_in_place_do_not_reach_what_is_read_late(generator):
    x = draw(sl.BitVector(6), generator, 3)[0]
    gamma = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    want = sl.sparsemap(sl.BitVector(6), x).mean.clone()
    post = sl.sparsemap(sl.BitVector(6), x, gamma=gamma)
    with torch.no_grad():
        x.zero_()
        gamma.fill_(7.0)
    torch.testing.assert_close(post.mean.detach(), want, atol=0, rtol=0)


def test_budget_infeasible_rows():
    x = torch.zeros(3, 4)
    x[1, :3] = -torch.inf
    with pytest.raises(sl.InfeasibleError, match=r"BudgetBitVector.*row 1 \(1 of 3\)"):
        sl.sparsemap(sl.BudgetBitVector(4, 2, exact=True), x)
    assert sl.sparsemap(sl.BudgetBitVector(4, 2), x).mean[1, :3].eq(0).all()


def test_an_unknown_decomposition_is_refused():
    with pytest.raises(sl.ArgumentError, match=r"decomposition: got 'waves'; expected one of 'levels', 'flips'"):
        sl.BitVector(3, decomposition="waves")
