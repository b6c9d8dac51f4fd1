import copy
import itertools
import math
import pickle

import pytest
import torch

import structlat as sl
from structlat.structure import Structure
from tests.judge import draw
from tests.structlat.structures.padding import check_padded
from tests.structure_tests import StructureTests


class TestBudgetBitVector(StructureTests):
    cases = (
        sl.BudgetBitVector(1, 0),
        sl.BudgetBitVector(5, 2),
        sl.BudgetBitVector(5, 3, exact=True),
        sl.BudgetBitVector(4, 4, symmetric=False),
        sl.BudgetBitVector(4, 0, exact=True),
        sl.BudgetBitVector(6, 2, exact=True, symmetric=False),
    )
    counts = (1, 16, 10, 16, 1, 15)


@pytest.mark.parametrize("symmetric", [True, False])
def test_budget_n_is_no_budget(generator, symmetric):
    x = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    free = sl.sparsemap(sl.BitVector(9, symmetric), x, solver="active_set").mean
    bound = sl.sparsemap(sl.BudgetBitVector(9, 9, symmetric=symmetric), x, solver="active_set").mean
    torch.testing.assert_close(free, bound, atol=1e-7, rtol=0)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_marginals_of_many_bits_keep_the_budget(generator, exact, scale):
    x = scale * torch.randn(8, 64, generator=generator, dtype=torch.float64)
    post = sl.sparsemap(sl.BudgetBitVector(64, 20, exact=exact), x, on_failure="raise")
    ones = post.mean.sum(-1)
    assert (ones <= 20 + 1e-9).all()
    if exact:
        torch.testing.assert_close(ones, torch.full((8,), 20.0, dtype=torch.float64), atol=1e-9, rtol=0)
    # the optimum is clip((x - tau + 1) / 2, 0, 1), with tau = 0 where the budget does not bind
    for row in range(8):
        low, high = float(x[row].min()) - 2, float(x[row].max()) + 2
        for _ in range(200):
            tau = (low + high) / 2
            low, high = (tau, high) if ((x[row] - tau + 1) / 2).clamp(0, 1).sum() > 20 else (low, tau)
        tau = tau if exact else max(tau, 0.0)
        assert (post.mean[row] - ((x[row] - tau + 1) / 2).clamp(0, 1)).abs().max() < 1e-7


@pytest.mark.parametrize(("budget", "came"), [(-1, "-1"), (6, "6"), (1.5, "1.5")])
def test_budget_outside_is_refused(budget, came):
    with pytest.raises(sl.ArgumentError, match=rf"budget: got {came}"):
        sl.BudgetBitVector(5, budget)


def test_cardinality_is_exact_where_floats_are_not():
    assert sl.BudgetBitVector(1000, 500, exact=True).cardinality() == math.comb(1000, 500)
    assert sl.BudgetBitVector(200, 200).cardinality() == 2**200


def test_padding_repeats_a_structure_that_is_there():
    """Infeasible structures of an enumerated support have no place in it."""
    x = torch.tensor([[-torch.inf, 1, 1], [1, 1, 1]])
    post = sl.marginalize(sl.BudgetBitVector(3, 2, exact=True), x)
    assert post.mask.tolist() == [[True, False, False], [True, True, True]]
    assert post.structures[0].tolist() == [[0, 1, 1]] * 3


def test_all_bits_forbidden():
    x = torch.full((1, 4), -torch.inf)
    assert sl.sparsemap(sl.BudgetBitVector(4, 2), x).mean.tolist() == [[0, 0, 0, 0]]
    with pytest.raises(sl.InfeasibleError, match="row 0"):
        sl.sparsemap(sl.BudgetBitVector(4, 2, exact=True), x)


# Sums and samples.


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("n", [37, 64])
def test_sums_over_sizes_are_the_sum_over_all_subsets(generator, scale, n):
    """Exact budgets 0..n divide all bit-vectors; and none of it overflows, or loses digits to other sizes."""
    x = scale * torch.randn(2, n, generator=generator, dtype=torch.float64)
    x[1, 3] = -torch.inf
    x.requires_grad_()
    budgets = torch.arange(n + 1).unsqueeze(-1)
    sizes = sl.BudgetBitVector(n, budgets, exact=True).log_partition(x.expand(n + 1, 2, n))
    total = torch.logsumexp(sizes, 0)
    torch.testing.assert_close(total, sl.BitVector(n).log_partition(x), rtol=1e-13, atol=1e-12)
    (slope,) = torch.autograd.grad(total.sum(), x, create_graph=True)
    torch.testing.assert_close(slope, x.sigmoid(), rtol=1e-8, atol=1e-12)
    (curvature,) = torch.autograd.grad(slope.square().sum(), x)
    assert torch.isfinite(curvature).all()


def test_sums_of_a_thousand_bits():
    """All scores alike: a logarithm of a binomial coefficient."""
    x = torch.full((1, 1000), 0.25, dtype=torch.float64)
    for budget in (0, 1, 300, 1000):
        got = sl.BudgetBitVector(1000, budget, exact=True).log_partition(x)
        assert float(got) == pytest.approx(math.log(math.comb(1000, budget)) + 0.25 * budget, rel=1e-13, abs=1e-13)
    at_most = math.log(sum(math.comb(1000, m) for m in range(301)))
    assert float(sl.BudgetBitVector(1000, 300).log_partition(0 * x)) == pytest.approx(at_most, rel=1e-13)


@pytest.mark.parametrize("exact", [True, False])
def test_samples_of_many_bits_have_their_marginals(exact):
    x = torch.randn(45, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[7] = -torch.inf
    space = sl.BudgetBitVector(45, 12, exact=exact)
    z = space.sample(x, shape=(4000,), generator=torch.Generator().manual_seed(2))
    ones, mean = z.sum(-1), space.marginals(x)
    assert (ones == 12).all() if exact else ((ones <= 12).all() and (ones < 12).any())
    assert (z[:, 7] == 0).all()
    assert float(mean.sum()) == pytest.approx(float(ones.mean()), abs=0.05)
    assert ((z.mean(0) - mean).abs() <= 5 * (mean * (1 - mean) / 4000).sqrt()).all()


# A budget a row.

SPACES = [(exact, symmetric) for exact in (True, False) for symmetric in (True, False)]
BUDGETS = torch.tensor([0, 2, 3, 5, 6])


def one_row(i, exact, symmetric, n=6):
    return sl.BudgetBitVector(n, int(BUDGETS[i]), exact, symmetric)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("budgets", [[2], [0, 3, 1], [[1], [3]], [[0, 4, 4]]])
def test_check_structure_of_a_budget_a_row(budgets, exact):
    sl.testing.check_structure(sl.BudgetBitVector(4, torch.tensor(budgets), exact), rows=3)


@pytest.mark.parametrize(("exact", "symmetric"), SPACES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["normal", "integer", "equal"])
def test_a_budget_a_row_is_a_loop_over_rows(generator, exact, symmetric, masked, kind):
    space = sl.BudgetBitVector(6, BUDGETS, exact, symmetric)
    x = draw(sl.BitVector(6), generator, 5, kind=kind)[0]
    if masked and exact:
        x[torch.arange(4), torch.arange(4)] = -torch.inf  # the last row needs them all
    elif masked:
        x[torch.arange(5), torch.arange(5)] = -torch.inf
    calls = [
        lambda s, y: sl.topk_sparsemax(s, y, k=5).mean,
        lambda s, y: sl.marginalize(s, y).mean,
        lambda s, y: sl.marginalize(s, y, normalizer="sparsemax").entropy(),
        lambda s, y: sl.argmax(s, y),
        lambda s, y: s.log_partition(y),
        lambda s, y: s.marginals(y),
        lambda s, y: sl.Gibbs(s, y).entropy(),
        lambda s, y: sl.Gibbs(s, y).mode,
        lambda s, y: sl.sparsemap(s, y).entropy(),
    ]
    if kind == "normal" or not exact:  # the k best are not unique
        calls.append(lambda s, y: sl.topk_sparsemax(s, y, k=3).probs.sort(-1).values[..., -2:].sum(-1))
    solvers = ("auto", "active_set", "active_set_torch", "away")
    calls += [lambda s, y, name=name: sl.sparsemap(s, y, gamma=0.7, solver=name).mean for name in solvers]
    for call in calls:
        y = x.clone().requires_grad_()
        got = call(space, y)
        rows = [call(one_row(i, exact, symmetric), y[i]) for i in range(5)]
        torch.testing.assert_close(got, torch.stack(rows), rtol=0, atol=1e-9)
        if got.requires_grad:
            (ours,) = torch.autograd.grad(got.square().sum(), y, retain_graph=True)
            (theirs,) = torch.autograd.grad(sum(row.square().sum() for row in rows), y)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("exact", [True, False])
def test_the_compiled_oracle_of_a_budget_a_row_is_the_one_from_outside(generator, exact):
    """``validate`` and ``trace`` take the loop that asks ``argmax``; the faces are completed by both."""

    class Asked(sl.BudgetBitVector):
        def compiled(self):
            return None

    x = torch.randn(5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    means = [
        sl.sparsemap(space, x, solver="active_set", validate=validate, on_failure="raise").mean
        for space in (sl.BudgetBitVector(6, BUDGETS, exact), Asked(6, BUDGETS, exact))
        for validate in (False, True)
    ]
    slopes = [torch.autograd.grad((mean * weights).sum(), x)[0] for mean in means]
    for mean, slope in zip(means[1:], slopes[1:], strict=True):
        torch.testing.assert_close(mean, means[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(slope, slopes[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("exact", [True, False])
def test_the_union_over_rows(exact):
    space = sl.BudgetBitVector(5, torch.tensor([[1], [3]]), exact)
    wanted = {tuple(z) for m in (1, 3) for z in sl.BudgetBitVector(5, m, exact).enumerate().to(torch.int64).tolist()}
    for every in (space.enumerate(), Structure.enumerate(space)):
        assert {tuple(z) for z in every.to(torch.int64).tolist()} == wanted
        assert len(every) == space.cardinality() == len(wanted)
    vectors = sl.BitVector(5).enumerate()
    inside = torch.tensor([tuple(z) in wanted for z in vectors.to(torch.int64).tolist()])
    assert torch.equal(space.contains(vectors), inside)
    assert torch.equal(Structure.contains(space, vectors), inside)
    with pytest.raises(sl.ArgumentError, match="more than 9"):
        Structure.enumerate(space, limit=9)


@pytest.mark.parametrize(("exact", "symmetric"), SPACES)
def test_batch_dimensions_of_budgets(generator, exact, symmetric):
    x = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)
    budgets = torch.tensor([[1, 4]])
    space = sl.BudgetBitVector(5, budgets, exact, symmetric)
    post, gibbs = sl.sparsemap(space, x), sl.Gibbs(space, x)
    assert post.batch_shape == gibbs.batch_shape == (3, 2)
    assert post.extra_marginals == gibbs.extra_marginals == ()
    drawn = gibbs.sample((50,), generator=generator)
    for i, j in itertools.product(range(3), range(2)):
        alone = sl.BudgetBitVector(5, int(budgets[0, j]), exact, symmetric)
        torch.testing.assert_close(post.mean[i, j], sl.sparsemap(alone, x[i, j]).mean, rtol=0, atol=1e-10)
        assert alone.contains(post.structures[i, j]).all()
        assert alone.contains(drawn[:, i, j]).all()
        every = alone.enumerate()
        p = gibbs.log_prob(every.reshape(-1, 1, 1, 5).expand(-1, 3, 2, 5)).exp()[:, i, j]
        torch.testing.assert_close(p.sum(), torch.ones_like(p.sum()))
    wider = gibbs.expand((4, 3, 2))
    torch.testing.assert_close(wider.mean, gibbs.mean.expand(4, 3, 2, 5))
    assert sl.sparsemap(space, x[:0]).mean.shape == (0, 2, 5)
    flat = sl.BudgetBitVector(5, torch.tensor([3]))
    assert sl.sparsemap(flat, x[0]).mean.sum(-1).max() <= 3 + 1e-9
    nothing = sl.BudgetBitVector(5, torch.zeros(0, dtype=torch.int64))
    assert sl.sparsemap(nothing, x[0, :0]).mean.shape == (0, 5)


def test_a_budget_a_row_survives_a_pickle_and_changes_in_place(generator):
    budgets = torch.tensor([1, 3])
    space = sl.BudgetBitVector(5, budgets, exact=True)
    budgets += 1
    x = torch.randn(2, 5, generator=generator)
    for same in (space, pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
        assert sl.argmax(same, x).sum(-1).tolist() == [1, 3]
    assert repr(space) == "BudgetBitVector(5, budget=[1, 3], exact=True, symmetric=True)"
    assert "budget=of shape (20,)" in repr(sl.BudgetBitVector(5, torch.ones(20, dtype=torch.int64)))
    assert sl.BudgetBitVector(5, torch.tensor(2)).budget == 2


def test_a_budget_a_row_under_transforms(generator):
    space = sl.BudgetBitVector(6, BUDGETS)
    x = torch.randn(4, 5, 6, generator=generator, dtype=torch.float64)
    for call in (
        lambda y: sl.sparsemap(space, y).mean,
        lambda y: sl.sparsemap(space, y, solver="active_set").mean,
        lambda y: space.marginals(y),
        lambda y: sl.topk_sparsemax(space, y, k=3).probs.square().sum(-1),
    ):
        torch.testing.assert_close(torch.func.vmap(call)(x), torch.stack([call(y) for y in x]), rtol=0, atol=1e-9)
        per = torch.func.vmap(torch.func.grad(lambda y, call=call: call(y).square().sum()))(x)
        y = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(sum(call(row).square().sum() for row in y), y)
        torch.testing.assert_close(per, slope, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (torch.tensor([1.0, 2.0]), r"budget: got dtype torch.float32; expected .* integer"),
        (torch.tensor([True]), r"budget: got dtype torch.bool"),
        (torch.tensor([1, 6, -1]), r"budget: outside 0\.\.5 in rows 1, 2 \(2 of 3\)"),
    ],
)
def test_wrong_budget_tensors_are_refused(budget, text):
    with pytest.raises(sl.ArgumentError, match=text):
        sl.BudgetBitVector(5, budget)


@pytest.mark.parametrize("batch", [(), (2,), (3, 2), (1,)])
def test_budgets_that_do_not_fit_the_batch_are_refused(batch):
    space = sl.BudgetBitVector(5, torch.tensor([1, 2, 3]))
    text = rf"scores: got batch shape \({', '.join(map(str, batch))},?\); .*budget=\[1, 2, 3\].* rows of shape \(3,\)"
    for call in (sl.sparsemap, sl.argmax, sl.marginalize, sl.Gibbs, lambda s, x: s.log_partition(x)):
        with pytest.raises(sl.ArgumentError, match=text):
            call(space, torch.zeros(*batch, 5))
    with pytest.raises(sl.ArgumentError, match=r"extra: got 1 tensors; BudgetBitVector expects 0, of shapes \[\]"):
        sl.sparsemap(space, torch.zeros(3, 5), torch.zeros(3, 6))


def test_infeasible_rows_of_a_budget_a_row_are_named():
    x = torch.zeros(3, 4)
    x[1:, :2] = -torch.inf
    space = sl.BudgetBitVector(4, torch.tensor([4, 2, 3]), exact=True)
    for call in (sl.sparsemap, sl.argmax, sl.topk_sparsemax, sl.marginalize, sl.Gibbs):
        with pytest.raises(sl.InfeasibleError, match=r"row 2 \(1 of 3\)"):
            call(space, x)
    assert torch.isneginf(space.log_partition(x)).tolist() == [False, False, True]


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("exact", [True, False])
def test_a_padded_batch_is_each_example_alone(generator, exact, per_row):
    lengths, budgets = torch.tensor([5, 3, 4]), torch.tensor([2, 2, 2])
    space = sl.BudgetBitVector(5, budgets if per_row else 2, exact)
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    check_padded(
        generator,
        space,
        [x],
        lambda y: [space.mask(y, lengths)],
        lambda row: sl.BudgetBitVector(int(lengths[row]), 2, exact),
        lambda row, y, n: y[row, : lengths[row]],
    )


@pytest.mark.parametrize("budget", [0, torch.tensor([0, 0])])
def test_nothing_moves_under_a_budget_of_nothing(budget):
    """Scores of 0 are where the clip of bits alone has its kink."""
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    mean = sl.sparsemap(sl.BudgetBitVector(3, budget, symmetric=False), x).mean
    assert torch.autograd.grad(mean.sum(), x)[0].eq(0).all()
