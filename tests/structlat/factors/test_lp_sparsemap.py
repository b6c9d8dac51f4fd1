import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.autograd import gradcheck, gradgradcheck

import structlat as sl
from structlat.factors import FactorGraph, lp_sparsemap
from structlat.structures.logic import AtMostOne, Or, Pair, Xor
from tests.judge import SCALES, draw, forbid
from tests.structlat.factors.cases import ACYCLIC, LOOPY, Assignments, distance_to_hull, draw_for, exact

SINGLE = (
    sl.BitVector(5),
    sl.BitVector(5, symmetric=False),
    sl.BudgetBitVector(5, 2),
    sl.BudgetBitVector(5, 2, exact=True, symmetric=False),
    sl.Categorical(4),
    sl.LinearChain(3, 2),
    sl.BipartiteMatching(2, 3),
    Xor(4),
    AtMostOne(4),
    Or(4),
    Pair(),
)


def whole(structure):
    """The structure as the only factor of a graph, its parts in another order."""
    n = structure.shape.numel()
    graph = FactorGraph(variables=n)
    order = torch.arange(n).flip(0)
    graph.add(structure, order.reshape(structure.shape))
    return graph, order


def solve(graph, *inputs, **options):
    return lp_sparsemap(graph, *inputs, on_failure=options.pop("on_failure", "raise"), **options)


def jacobian(graph, inputs, **options):
    """[B, n, n] by reverse mode, of the marginals in the scores."""
    x = inputs[0].clone().requires_grad_()
    mean = solve(graph, x, *inputs[1:], **options).marginals
    rows = [torch.autograd.grad(mean[:, i].sum(), x, retain_graph=True)[0] for i in range(graph.variables)]
    return torch.stack(rows, 1)


def differences(graph, inputs, step=1e-6):
    """The same by central differences."""
    bumps = step * torch.eye(graph.variables, dtype=torch.float64)
    scores, *extra = (x.unsqueeze(1) for x in inputs)
    up, down = (solve(graph, scores + sign * bumps, *extra, tol=1e-12).marginals for sign in (1, -1))
    return ((up - down) / (2 * step)).transpose(1, 2)


# One factor.


@pytest.mark.parametrize("structure", SINGLE, ids=repr)
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
def test_one_factor_is_sparsemap(structure, generator, scale):
    graph, order = whole(structure)
    inputs = forbid(structure, draw(structure, generator, 4, scale), generator)
    gamma = torch.tensor([0.3, 1.0, 1.7, 2.5], dtype=torch.float64)
    flat = inputs[0].reshape(4, -1)[:, order.argsort()]
    got = solve(graph, flat, *inputs[1:], gamma=gamma)
    want = sl.sparsemap(structure, *inputs, gamma=gamma, solver="active_set", tol=1e-13, on_failure="ignore")
    moved = got.marginals[:, order].reshape(want.mean.shape)
    torch.testing.assert_close(moved, want.mean, atol=1e-9, rtol=0)
    (post,) = got.distributions
    torch.testing.assert_close(post.mean, want.mean, atol=1e-9, rtol=0)
    for x, y in zip(post.extra_marginals, want.extra_marginals, strict=True):
        torch.testing.assert_close(x, y, atol=1e-9, rtol=0)
    assert not got.relaxed.any()


@pytest.mark.parametrize("structure", SINGLE, ids=repr)
def test_one_factor_has_the_gradients_of_sparsemap(structure, generator):
    graph, order = whole(structure)
    inputs = [x.requires_grad_() for x in draw(structure, generator, 3)]
    gamma = torch.tensor([0.6, 1.0, 1.4], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, *structure.shape, generator=generator, dtype=torch.float64)

    def gradients(mean, extra_marginals):
        total = (weight * mean).sum() + sum(x.sin().sum() for x in extra_marginals)
        return torch.autograd.grad(total, [*inputs, gamma])

    flat = inputs[0].reshape(3, -1)[:, order.argsort()]
    (post,) = solve(graph, flat, *inputs[1:], gamma=gamma).distributions
    want = sl.sparsemap(structure, *inputs, gamma=gamma, solver="active_set")
    for ours, theirs in zip(
        gradients(post.mean, post.extra_marginals), gradients(want.mean, want.extra_marginals), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7)


# Without cycles.


@pytest.mark.parametrize("name", ACYCLIC)
@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_acyclic_graphs_against_the_enumerated_program(name, generator, gamma, scale):
    graph = ACYCLIC[name]()
    assert graph.acyclic
    inputs = draw_for(graph, generator, 4, scale)
    got = solve(graph, *inputs, gamma=gamma)
    mean, value = exact(graph, inputs, gamma)
    torch.testing.assert_close(got.marginals, mean, atol=2e-8, rtol=0)
    torch.testing.assert_close(got.objective, value, atol=1e-7, rtol=1e-8)
    assert not got.relaxed.any()
    assert got.info.converged.all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_regulariser_is_that_of_the_graph(generator, symmetric):
    """Whatever the factors do on their own."""
    graph = FactorGraph(variables=4, symmetric=symmetric)
    graph.add(sl.BitVector(2), [0, 1])
    graph.add(Pair(), [1, 2])
    graph.add(sl.BudgetBitVector(2, 1, symmetric=False), [2, 3])
    inputs = draw_for(graph, generator, 5)
    mean, value = exact(graph, inputs, 0.7)
    got = solve(graph, *inputs, gamma=0.7)
    torch.testing.assert_close(got.marginals, mean, atol=2e-8, rtol=0)
    torch.testing.assert_close(got.objective, value, atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", ["tree", "path", "meeting"])
def test_masks(name, generator):
    graph = ACYCLIC[name]()
    inputs = draw_for(graph, generator, 6)
    spared = exact(graph, [5 * x for x in inputs])[0] > 0.5  # an assignment, nearly: something stays feasible
    drawn = torch.rand(inputs[0].shape, generator=generator) < 0.3
    forbidden = drawn & ~spared
    assert forbidden.any()
    inputs[0] = torch.where(forbidden, -torch.inf, inputs[0])
    got = solve(graph, *inputs)
    mean, value = exact(graph, inputs)
    torch.testing.assert_close(got.marginals, mean, atol=2e-8, rtol=0)
    torch.testing.assert_close(got.objective, value, atol=1e-7, rtol=0)
    assert (got.marginals[forbidden] == 0).all()


def test_a_forbidden_pair(generator):
    """-inf among the extra scores: both of them never."""
    graph = ACYCLIC["path"]()
    scores, coupling = draw_for(graph, generator, 4)
    coupling[:, 2] = -torch.inf
    coupling[:, 4] = -torch.inf
    got = solve(graph, scores + 1, coupling)
    mean, value = exact(graph, [scores + 1, coupling])
    torch.testing.assert_close(got.marginals, mean, atol=2e-8, rtol=0)
    torch.testing.assert_close(got.objective, value, atol=1e-7, rtol=0)


# With cycles.


@pytest.mark.parametrize("name", LOOPY)
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_loopy_marginals_are_in_every_polytope_and_the_objective_is_a_bound(name, generator, scale):
    graph = LOOPY[name]()
    assert not graph.acyclic
    inputs = draw_for(graph, generator, 5, scale)
    got = solve(graph, *inputs, gamma=0.8)
    mean, value = exact(graph, inputs, 0.8)
    for factor in graph.factors:
        places = factor.variables.reshape(-1, *factor.structure.shape)
        for row in got.marginals:
            for place in places:
                assert distance_to_hull(factor.structure, row[place]) < 1e-6
    assert (got.objective >= value - 1e-8 * scale).all()
    certain = ~got.relaxed
    torch.testing.assert_close(got.marginals[certain], mean[certain], atol=1e-7, rtol=0)
    torch.testing.assert_close(got.objective[certain], value[certain], atol=1e-7, rtol=0)
    for post, factor in zip(got.distributions, graph.factors, strict=True):
        torch.testing.assert_close(post.mean, got.marginals[:, factor.variables], atol=1e-8, rtol=0)


def test_relaxed_says_where_the_marginals_are_those_of_no_distribution():
    """Three bits no two of which are equal: pair by pair 1/2 each will do, and no assignment will."""
    graph = FactorGraph(variables=3)
    graph.add(Xor(2), [[0, 1], [1, 2], [2, 0]])
    assert len(Assignments(graph).enumerate()) == 0
    got = solve(graph, torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(got.marginals, torch.full((1, 3), 0.5, dtype=torch.float64))
    assert got.relaxed.all()


def test_a_cycle_that_certain_variables_cut_is_not_relaxed():
    graph = LOOPY["loop"]()
    scores = torch.tensor([[9.0, 0.4, 0.4, 0.4]], dtype=torch.float64)
    coupling = torch.tensor([[0.2, -0.3, 0.1, -0.2]], dtype=torch.float64).unsqueeze(-1)
    got = solve(graph, scores, coupling)
    assert got.marginals[0, 0] == pytest.approx(1, abs=1e-8)
    assert ((got.marginals[0, 1:] > 0) & (got.marginals[0, 1:] < 1)).all()
    assert not got.relaxed.any()
    torch.testing.assert_close(got.marginals, exact(graph, [scores, coupling])[0], atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", LOOPY)
def test_loopy_marginals_are_the_optimum_over_the_local_polytope(name, generator):
    """Against a general solver, over the distributions of all factors side by side."""
    graph = LOOPY[name]()
    inputs = draw_for(graph, generator, 2)
    got = solve(graph, *inputs)
    for row in range(2):
        mean, value = local_optimum(graph, [x[row] for x in inputs])
        assert (got.marginals[row] - mean).abs().max() < 1e-4
        assert abs(float(got.objective[row]) - value) < 1e-6


def test_rows_and_columns_make_a_matching(generator):
    """Cycles, but a polytope whose vertices are the matchings all the same (Birkhoff)."""
    cells = torch.arange(16).reshape(4, 4)
    graph = FactorGraph(variables=16)
    for lines in (cells, cells.T):
        graph.add(Xor(4), lines)
    scores = torch.randn(6, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, 4, generator=generator, dtype=torch.float64)
    got = solve(graph, scores.flatten(1)).marginals.unflatten(1, (4, 4))
    want = sl.sparsemap(sl.BipartiteMatching(4, 4), scores).mean
    torch.testing.assert_close(got, want, atol=2e-8, rtol=0)
    ours, theirs = (torch.autograd.grad((weight * x).sum(), scores)[0] for x in (got, want))
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=0)


def local_optimum(graph, inputs):
    """Marginals and value of one row, at gamma = 1, by sequential quadratic programming."""
    n, own, blocks = graph.variables, iter(inputs[1:]), []
    for factor in graph.factors:
        structure, count = factor.structure, factor.lead.numel()
        every = structure.enumerate()
        extra = [next(own).reshape(count, 1, *s) for s in structure.extra_shapes]
        none = torch.zeros(1, 1, *structure.shape, dtype=torch.float64)
        h = structure.score(every.unsqueeze(0), none, *extra).expand(count, len(every))
        a = structure.vertex(every).reshape(len(every), -1).double().numpy()
        blocks += [(a, h[i].numpy(), v.numpy()) for i, v in enumerate(factor.variables.reshape(count, -1))]
    width = n + sum(len(a) for a, _, _ in blocks)
    linear, rows, right = np.zeros(width), [], []
    linear[:n] = inputs[0].numpy()
    at = n
    for a, h, v in blocks:
        p = slice(at, at + len(a))
        linear[p], at = h, at + len(a)
        for part, i in enumerate(v):
            row = np.zeros(width)
            row[p], row[i] = a[:, part], -1
            rows.append(row)
            right.append(0.0)
        row = np.zeros(width)
        row[p] = 1
        rows.append(row)
        right.append(1.0)
    rows, right = np.stack(rows), np.array(right)
    # an independent set of equations, for the solver's sake
    u, s, v = np.linalg.svd(rows, full_matrices=False)
    kept = s > 1e-9
    rows, right = v[kept], (u[:, kept].T @ right) / s[kept]

    def loss(x):
        return x[:n] @ x[:n] / 2 - linear @ x

    def slope(x):
        return np.concatenate([x[:n], np.zeros(width - n)]) - linear

    answer = minimize(
        loss,
        np.full(width, 0.5),
        jac=slope,
        bounds=[(0, 1)] * width,
        constraints={"type": "eq", "fun": lambda x: rows @ x - right, "jac": lambda x: rows},
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-15},
    )
    assert np.abs(rows @ answer.x - right).max() < 1e-8
    return torch.from_numpy(answer.x[:n]), -answer.fun


def test_a_negative_coupling_has_a_gradient():
    """Closed form by hand: both bits at clip(s + w) where s_1 + s_2 + 2 w > 1."""
    graph = FactorGraph(variables=2)
    graph.add(Pair(), [0, 1])
    scores = torch.tensor([0.9, 0.8], dtype=torch.float64, requires_grad=True)
    coupling = torch.tensor([-0.2], dtype=torch.float64, requires_grad=True)
    got = solve(graph, scores, coupling)
    torch.testing.assert_close(got.marginals, torch.tensor([0.7, 0.6], dtype=torch.float64))
    (slope,) = torch.autograd.grad(got.marginals.sum(), coupling)
    torch.testing.assert_close(slope, torch.tensor([2.0], dtype=torch.float64))


def test_a_negative_coupling_in_a_loop(generator):
    """The slope of the objective in a coupling is how often both are on, whatever its sign."""
    graph = LOOPY["loop"]()
    scores = 0.9 + 0.02 * torch.randn(1, 4, generator=generator, dtype=torch.float64)
    coupling = torch.full((1, 4, 1), -0.05, dtype=torch.float64, requires_grad=True)
    got = solve(graph, scores, coupling, tol=1e-12)
    (slope,) = torch.autograd.grad(got.objective.sum(), coupling)
    step = 1e-4
    for i in range(4):
        bump = torch.zeros_like(coupling.detach())
        bump[0, i] = step
        up, down = (solve(graph, scores, coupling.detach() + sign * bump, tol=1e-12).objective for sign in (1, -1))
        assert float(slope[0, i]) == pytest.approx(float(up - down) / (2 * step), abs=1e-6)
        assert slope[0, i] > 0.05
    (moved,) = torch.autograd.grad(got.marginals.sum(), coupling)
    assert (moved.abs() > 1e-3).any()


# Derivatives.


@pytest.mark.parametrize("name", [*ACYCLIC, *LOOPY])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_jacobian_against_finite_differences(name, generator, scale):
    graph = {**ACYCLIC, **LOOPY}[name]()
    inputs = draw_for(graph, generator, 4, scale)
    torch.testing.assert_close(jacobian(graph, inputs), differences(graph, inputs), atol=1e-5, rtol=0)


def test_jacobian_of_a_graph_of_every_kind(generator):
    """Cycles, structures and logic at once."""
    graph = LOOPY["structured"]()
    graph.add(Or(2), [6, 7])
    inputs = draw_for(graph, generator, 4)
    torch.testing.assert_close(jacobian(graph, inputs), differences(graph, inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["structured", "path", "symmetric", "loop"])
def test_gradcheck(name, generator):
    """Scores, extra scores and gamma, to marginals, factors' means, extra marginals and the objective."""
    graph = {**LOOPY, **ACYCLIC}[name]()
    inputs = [x.requires_grad_() for x in draw_for(graph, generator, 2)]
    gamma = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)

    def outputs(gamma, *inputs):
        got = solve(graph, *inputs, gamma=gamma, tol=1e-12)
        more = [x for post in got.distributions for x in (post.mean, *post.extra_marginals)]
        return got.marginals, got.objective, *more

    assert gradcheck(outputs, (gamma, *inputs), atol=1e-5, fast_mode=True)
    if name in ("loop", "symmetric"):
        assert gradgradcheck(outputs, (gamma, *inputs), atol=1e-5, fast_mode=True)


def test_gradients_beside_forbidden_variables(generator):
    graph = LOOPY["structured"]()
    scores, *extra = draw_for(graph, generator, 3)
    forbidden = torch.zeros(3, 8, dtype=torch.bool)
    forbidden[[0, 1, 2], [1, 6, 7]] = True
    gamma = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    finite = scores.clone().requires_grad_()
    extra = [x.requires_grad_() for x in extra]

    def outputs(finite, gamma, *extra):
        got = solve(graph, torch.where(forbidden, -torch.inf, finite), *extra, gamma=gamma, tol=1e-12)
        return got.marginals, got.objective

    assert gradcheck(outputs, (finite, gamma, *extra), atol=1e-5, fast_mode=True)
    x = torch.where(forbidden, -torch.inf, scores).requires_grad_()
    got = solve(graph, x, *extra, gamma=gamma)
    total = got.marginals.square().sum() + got.objective.sum()
    total = total + sum(p.entropy().sum() + p.mean.sum() for p in got.distributions)
    for slope in torch.autograd.grad(total, [x, gamma, *extra]):
        assert torch.isfinite(slope).all()


def test_the_slope_of_the_objective_are_the_marginals(generator):
    for name in ("loop", "logic"):
        graph = LOOPY[name]()
        inputs = [x.requires_grad_() for x in draw_for(graph, generator, 3)]
        got = solve(graph, *inputs)
        slopes = torch.autograd.grad(got.objective.sum(), inputs)
        torch.testing.assert_close(slopes[0], got.marginals, atol=1e-7, rtol=0)
        more = [x for post in got.distributions for x in post.extra_marginals]
        for slope, x in zip(slopes[1:], more, strict=True):
            torch.testing.assert_close(slope, x, atol=1e-7, rtol=0)


def test_jacobian_where_a_support_spans_too_little(generator):
    """Of many bits the active set lists fewer than the face has dimensions."""
    graph = FactorGraph(variables=50)
    graph.add(sl.BudgetBitVector(48, 24, symmetric=False), range(48))
    graph.add(Pair(), [[0, 48], [48, 49], [49, 1]])
    scores = 0.5 + 0.2 * torch.randn(1, 50, generator=generator, dtype=torch.float64)
    inputs = [scores, 0.2 * torch.randn(1, 3, 1, generator=generator, dtype=torch.float64)]
    assert solve(graph, *inputs).distributions[0].support_size < 45
    torch.testing.assert_close(jacobian(graph, inputs), differences(graph, inputs), atol=1e-5, rtol=0)


def test_jacobian_where_scores_tie_at_a_vertex():
    """Multipliers at their border: a direction is flat for every factor, but no factor has it on both sides."""
    graph = FactorGraph(variables=4)
    graph.add(Pair(), [[0, 1], [1, 2], [2, 3], [0, 3], [0, 2], [1, 3]])
    scores = torch.tensor([[1.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    coupling = torch.tensor([[1.0, 0.0, -2.0, 0.0, 1.0, 0.0]], dtype=torch.float64).unsqueeze(-1)
    inputs = [scores, coupling]
    torch.testing.assert_close(solve(graph, *inputs).marginals, torch.tensor([[1.0, 1, 1, 0]], dtype=torch.float64))
    assert differences(graph, inputs, 1e-4).abs().max() < 1e-6
    assert jacobian(graph, inputs).abs().max() < 1e-9


def test_probabilities_have_the_gradient_of_their_support(generator):
    """Of a sum of p over the supports found, against differences along which no support changes."""
    graph = LOOPY["structured"]()
    inputs = draw_for(graph, generator, 3, 0.7)
    weight = torch.randn(8, generator=generator, dtype=torch.float64)
    direction = torch.randn(3, 8, generator=generator, dtype=torch.float64)

    def total(scores):
        got = solve(graph, scores, *inputs[1:], tol=1e-13)
        post = got.distributions[1]
        supports = [set(map(tuple, z[m].long().tolist())) for z, m in zip(post.structures, post.mask, strict=True)]
        return post.expect(lambda z, i: (z * weight[:4]).sum(-1).exp()), supports

    scores = inputs[0].clone().requires_grad_()
    value, here = total(scores)
    (slope,) = torch.autograd.grad(value.sum(), scores)
    (up, above), (down, below) = (total(inputs[0] + sign * 1e-6 * direction) for sign in (1, -1))
    same = torch.tensor([a == b == c for a, b, c in zip(here, above, below, strict=True)])
    assert same.any()
    want = (up - down) / 2e-6
    torch.testing.assert_close((slope * direction).sum(-1)[same], want[same], atol=1e-6, rtol=0)


def test_transforms(generator):
    graph = LOOPY["loop"]()
    scores, coupling = draw_for(graph, generator, 3)

    def mean(x, y):
        return solve(graph, x, y).marginals

    want = jacobian(graph, [scores, coupling])
    per_row = torch.func.vmap(torch.func.jacrev(mean))(scores, coupling)
    torch.testing.assert_close(per_row, want, atol=1e-9, rtol=0)
    torch.testing.assert_close(torch.func.vmap(torch.func.jacfwd(mean))(scores, coupling), want, atol=1e-9, rtol=0)
    torch.testing.assert_close(torch.func.vmap(mean)(scores, coupling), mean(scores, coupling), atol=1e-9, rtol=0)


# Batches, dtypes, scales.


@pytest.mark.parametrize("name", ["structured", "logic"])
def test_a_batch_is_a_loop(name, generator):
    graph = LOOPY[name]()
    inputs = [x.requires_grad_() for x in draw_for(graph, generator, 5)]
    batch = solve(graph, *inputs)
    (slope,) = torch.autograd.grad(batch.marginals.square().sum(), inputs[0])
    for row in range(5):
        one = [x[row].detach().requires_grad_() for x in inputs]
        alone = solve(graph, *one)
        assert alone.marginals.shape == (graph.variables,)
        torch.testing.assert_close(alone.marginals, batch.marginals[row], atol=1e-12, rtol=0)
        torch.testing.assert_close(alone.objective, batch.objective[row], atol=1e-11, rtol=0)
        assert alone.info.iterations == batch.info.iterations[row]
        assert alone.relaxed == batch.relaxed[row]
        (own,) = torch.autograd.grad(alone.marginals.square().sum(), one[0])
        torch.testing.assert_close(own, slope[row], atol=1e-9, rtol=0)


@pytest.mark.parametrize("batch", [(), (3,), (2, 1, 2), (0,), (2, 0)])
def test_batch_dimensions(batch):
    graph = LOOPY["structured"]()
    generator = torch.Generator().manual_seed(1)
    shapes = [(graph.variables,), *graph.extra_shapes]
    inputs = [torch.randn(*batch, *s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    got = solve(graph, *inputs, gamma=torch.full(batch, 0.7))
    assert got.marginals.shape == (*batch, 8) == got.mean.shape
    for x in (got.relaxed, got.objective, *vars(got.info).values()):
        assert x.shape == batch
    for post, factor in zip(got.distributions, graph.factors, strict=True):
        assert post.batch_shape == batch + factor.lead
        assert post.mean.shape == batch + factor.variables.shape
        assert [x.shape for x in post.extra_marginals] == [batch + s for s in factor.extra_shapes]
        assert post.structures.shape[:-1] == post.probs.shape[: len(post.structures.shape) - 1]
    assert repr(got)
    assert got.info.status
    torch.autograd.grad(got.marginals.sum() + got.objective.sum(), inputs, allow_unused=True)


def test_extra_scores_that_rows_share(generator):
    graph = LOOPY["structured"]()
    scores, transition, coupling = draw_for(graph, generator, 4)
    one = transition[0].requires_grad_()
    shared = solve(graph, scores, one, torch.tensor(0.3, dtype=torch.float64))
    own = solve(graph, scores, one.expand_as(transition), torch.full_like(coupling, 0.3))
    torch.testing.assert_close(shared.marginals, own.marginals, atol=1e-12, rtol=0)
    for x, y in zip(
        torch.autograd.grad(shared.marginals.square().sum(), one),
        torch.autograd.grad(own.marginals.square().sum(), one),
        strict=True,
    ):
        torch.testing.assert_close(x, y, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(generator, dtype):
    graph = LOOPY["structured"]()
    inputs = [x.to(dtype).requires_grad_() for x in draw_for(graph, generator, 3)]
    got, wide = solve(graph, *inputs), solve(graph, *(x.detach().double() for x in inputs))
    assert got.marginals.dtype == dtype
    assert got.objective.dtype == torch.float32
    torch.testing.assert_close(got.marginals, wide.marginals.to(dtype), atol=0, rtol=0)
    for post in got.distributions:
        assert post.mean.dtype == dtype
        assert post.probs.dtype == torch.float32
    for slope in torch.autograd.grad(got.marginals.double().square().sum(), inputs):
        assert slope.dtype == dtype


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["tree", "symmetric", "meeting"])
def test_scales(name, generator, scale):
    graph = ACYCLIC[name]()
    inputs = draw_for(graph, generator, 3, scale)
    got = solve(graph, *inputs)
    mean, value = exact(graph, inputs)
    size = 1 if graph.symmetric else min(scale, 1)  # of marginals that no factor makes large
    torch.testing.assert_close(got.marginals, mean, atol=max(3e-8 * size, 1e-10, 1e-14 * scale), rtol=0)
    torch.testing.assert_close(got.objective, value, atol=1e-7 * max(scale, 1), rtol=0)


@pytest.mark.parametrize("kind", ["integer", "equal"])
def test_ties(generator, kind):
    for graph in (ACYCLIC["tree"](), ACYCLIC["meeting"](), ACYCLIC["symmetric"]()):
        inputs = draw_for(graph, generator, 5)
        inputs = [(2 * x).round() if kind == "integer" else torch.full_like(x, 0.5) for x in inputs]
        mean, value = exact(graph, inputs)
        got = solve(graph, *inputs)
        torch.testing.assert_close(got.marginals, mean, atol=5e-8, rtol=0)
        torch.testing.assert_close(got.objective, value, atol=1e-7, rtol=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_variable_in_no_factor(generator, symmetric):
    graph = FactorGraph(variables=5, symmetric=symmetric)
    graph.add(Pair(), [[0, 1], [1, 3]])
    scores, coupling = draw_for(graph, generator, 6)
    scores[0, 4] = -torch.inf
    x = scores.clone().requires_grad_()
    got = solve(graph, x, coupling)
    free = (scores[:, [2, 4]] + 1) / 2 if symmetric else scores[:, [2, 4]]
    torch.testing.assert_close(got.marginals[:, [2, 4]], free.clamp(0, 1), atol=1e-12, rtol=0)
    torch.testing.assert_close(got.objective, exact(graph, [scores, coupling])[1], atol=1e-7, rtol=0)
    (slope,) = torch.autograd.grad(got.marginals[:, [2, 4]].sum(), x)
    inside = ((free > 0) & (free < 1)).double() / (2 if symmetric else 1)
    torch.testing.assert_close(slope[:, [2, 4]], inside, atol=1e-12, rtol=0)


def test_a_graph_without_factors():
    scores = torch.tensor([[-1.0, 0.4, 7.0]], requires_grad=True)
    got = solve(FactorGraph(3), scores)
    torch.testing.assert_close(got.marginals, scores.detach().clamp(0, 1))
    assert got.distributions == ()
    torch.testing.assert_close(torch.autograd.grad(got.marginals.sum(), scores)[0], torch.tensor([[0.0, 1.0, 0.0]]))


# The solver.


def test_one_call_a_round_for_all_factors_of_a_kind(generator, monkeypatch):
    """A grid, its edges added one by one and all at once."""
    edges = [[4 * i + j, 4 * i + j + 1] for i in range(4) for j in range(3)]
    edges += [[4 * i + j, 4 * i + j + 4] for i in range(3) for j in range(4)]
    one_by_one, at_once = FactorGraph(16), FactorGraph(16)
    for edge in edges:
        one_by_one.add(Pair(), edge)
    at_once.add(Pair(), edges)
    scores, coupling = draw_for(at_once, generator, 3)
    calls = []
    form = Pair.closed_form
    monkeypatch.setattr(Pair, "closed_form", lambda self, *x: calls.append(len(x[0])) or form(self, *x))
    got = solve(one_by_one, scores, *coupling.unbind(1))
    assert len(calls) == int(got.info.iterations.max())
    assert max(calls) == 3 * len(edges)
    torch.testing.assert_close(got.marginals, solve(at_once, scores, coupling).marginals, atol=1e-12, rtol=0)
    for post, mean in zip(
        got.distributions, solve(at_once, scores, coupling).distributions[0].mean.unbind(1), strict=True
    ):
        torch.testing.assert_close(post.mean, mean, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["loop", "structured"])
def test_a_warm_start_saves_rounds(name, generator):
    graph = LOOPY[name]()
    inputs = draw_for(graph, generator, 4)
    first = solve(graph, *inputs)
    again = solve(graph, *inputs, init=first)
    assert (again.info.iterations <= 2).all()
    torch.testing.assert_close(again.marginals, first.marginals, atol=1e-8, rtol=0)
    near = [inputs[0] + 1e-4 * torch.randn(inputs[0].shape, generator=generator, dtype=torch.float64), *inputs[1:]]
    cold, warm = solve(graph, *near), solve(graph, *near, init=first)
    assert warm.info.iterations.sum() < cold.info.iterations.sum()
    torch.testing.assert_close(warm.marginals, cold.marginals, atol=1e-7, rtol=0)


def test_without_convergence_it_says_so(generator):
    graph = LOOPY["structured"]()
    inputs = draw_for(graph, generator, 3)
    with pytest.warns(sl.NonConvergenceWarning, match=r"rows 0, 1, 2 \(3 of 3\).*max_iter") as caught:
        got = lp_sparsemap(graph, *inputs, max_iter=2)
    assert caught[0].filename == __file__
    assert not got.info.converged.any()
    assert (got.info.iterations == 2).all()
    assert (got.info.primal_residual > 1e-9).all()
    with pytest.raises(sl.NonConvergenceWarning, match="max_iter"):
        lp_sparsemap(graph, *inputs, max_iter=2, on_failure="raise")
    quiet = lp_sparsemap(graph, *inputs, max_iter=2, on_failure="ignore")
    assert (quiet.objective >= exact(graph, inputs)[1] - 1e-9).all()  # a bound all the same
    full = solve(graph, *inputs)
    assert (quiet.objective > full.objective).all()


def test_a_factor_whose_own_solver_fails_is_not_converged():
    """Its oracle gives the worst structure from the third time on: no residual is left, and nothing is sure."""
    calls = []

    def forgetful(scores):
        calls.append(scores)
        return ((scores > 0) == (len(calls) < 3)).astype(float)

    graph = FactorGraph(variables=3)
    graph.add(sl.Structure.from_argmax(forgetful, 3), [0, 1, 2])
    with pytest.warns(sl.NonConvergenceWarning, match="a factor's own solver stopped"):
        got = lp_sparsemap(graph, torch.tensor([0.8, -0.3, 0.4], dtype=torch.float64))
    assert got.info.primal_residual == got.info.dual_residual == 0
    assert not got.info.converged


def test_factors_that_contradict_each_other():
    """Caught by a proof, long before the rounds are used up."""
    graph = FactorGraph(variables=4)
    graph.add(Xor(2), [[0, 1], [2, 3]])
    graph.add(AtMostOne(4), [0, 1, 2, 3])
    with pytest.raises(sl.InfeasibleError, match=r"no marginals satisfy all factors in rows 0, 1 \(2 of 2\)"):
        lp_sparsemap(graph, torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    loose = FactorGraph(variables=4)
    loose.add(Xor(2), [[0, 1], [2, 3]])
    loose.add(sl.BudgetBitVector(4, 2, symmetric=False), [0, 1, 2, 3])
    assert solve(loose, torch.zeros(2, 4)).info.converged.all()
    masked = torch.zeros(2, 4)
    masked[1, :2] = -torch.inf
    with pytest.raises(sl.InfeasibleError, match=r"factor 0, Xor\(2\), has no feasible structure in row 1 \(1 of 2\)"):
        lp_sparsemap(loose, masked)


def test_a_chain_and_a_mask_that_contradict_each_other():
    """Each factor has a structure left; both together have none."""
    graph = FactorGraph(variables=3)
    graph.add(Xor(2), [0, 1])
    graph.add(Xor(2), [1, 2])
    scores = torch.zeros(2, 3)
    scores[0, 0] = scores[0, 2] = -torch.inf
    assert solve(graph, scores).marginals[0].tolist() == [0, 1, 0]
    graph.add(Pair(), [0, 2])
    scores[0] = torch.tensor([0, -torch.inf, 0])
    coupling = torch.tensor([-torch.inf])
    with pytest.raises(sl.InfeasibleError, match=r"no marginals satisfy all factors in row 0 \(1 of 2\)"):
        lp_sparsemap(graph, scores, coupling)


def test_a_budget_that_differs_by_row(generator):
    """A structure's own extra scores, by row or by factor."""
    budgets = torch.tensor([1, 2, 3])
    scores = torch.randn(3, 5, generator=generator, dtype=torch.float64) + 1
    graph = FactorGraph(variables=5, symmetric=False)
    graph.add(sl.BudgetBitVector(4, budgets), [0, 1, 2, 3])
    graph.add(Or(2), [3, 4])
    got = solve(graph, scores)
    for row, budget in enumerate(budgets.tolist()):
        alone = FactorGraph(variables=5, symmetric=False)
        alone.add(sl.BudgetBitVector(4, budget), [0, 1, 2, 3])
        alone.add(Or(2), [3, 4])
        torch.testing.assert_close(got.marginals[row], solve(alone, scores[row]).marginals, atol=1e-8, rtol=0)


def test_inputs_are_left_as_they_were(generator):
    graph = LOOPY["structured"]()
    inputs = draw_for(graph, generator, 2)
    kept, state = [x.clone() for x in inputs], torch.get_rng_state()
    got = solve(graph, *(x.requires_grad_() for x in inputs))
    got.marginals.sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(inputs, kept, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_scores_and_graph_that_change_after_the_call(generator):
    graph = LOOPY["structured"]()
    inputs = [x.requires_grad_() for x in draw_for(graph, generator, 2)]
    got, same = solve(graph, *inputs), solve(graph, *inputs)
    want = torch.autograd.grad(same.marginals.square().sum(), inputs[0])
    means = [post.mean.detach() for post in same.distributions]
    with torch.no_grad():
        for x in inputs:
            x.mul_(-3)
    graph.add(Xor(2), [0, 7])
    torch.testing.assert_close(torch.autograd.grad(got.marginals.square().sum(), inputs[0]), want)
    for post, mean in zip(got.distributions, means, strict=True):
        torch.testing.assert_close(post.mean, mean)


def test_pickle_and_deepcopy(generator):
    graph = LOOPY["structured"]()
    got = solve(graph, *(x.requires_grad_() for x in draw_for(graph, generator, 2)))
    for other in (pickle.loads(pickle.dumps(got)), copy.deepcopy(got)):
        torch.testing.assert_close(other.marginals, got.marginals.detach())
        torch.testing.assert_close(other.objective, got.objective.detach())
        assert not other.marginals.requires_grad
        assert [p.probs.shape for p in other.distributions] == [p.probs.shape for p in got.distributions]
        near = [x.detach() + 1e-4 for x in (got._answer.problem.scores, *got._answer.problem.extra)]
        assert solve(other.graph, *near, init=other).info.converged.all()


# Errors.


def test_bad_input_is_refused_in_words(generator):
    graph = LOOPY["loop"]()
    scores, coupling = draw_for(graph, generator, 3)
    for args, options, match in (
        ((scores,), {}, r"extra: got 0 tensors.*expects 1"),
        ((scores[:, :3], coupling), {}, r"scores: got shape \(3, 3\).*\(4,\)"),
        ((scores, coupling[:, :2]), {}, r"extra\[0\]: got shape \(3, 2, 1\).*\(3, 4, 1\)"),
        ((scores.long(), coupling), {}, "scores: got dtype torch.int64"),
        ((scores.clone().index_fill_(0, torch.tensor(1), torch.nan), coupling), {}, "scores: NaN.*row 1"),
        ((scores, coupling + torch.inf), {}, r"extra\[0\]: NaN or \+inf"),
        ((scores, coupling), {"gamma": 0}, "gamma: got 0"),
        ((scores, coupling), {"gamma": torch.ones(2)}, "gamma: got shape"),
        ((scores, coupling), {"tol": -1}, "tol: got -1"),
        ((scores, coupling), {"max_iter": 0}, "max_iter: got 0"),
        ((scores, coupling), {"on_failure": "shrug"}, "on_failure: got 'shrug'"),
        ((scores, coupling), {"init": 3}, "init: got int"),
        ((scores, coupling), {"init": solve(graph, scores[:2], coupling[:2])}, r"init: got .*batch shape \(2,\)"),
    ):
        with pytest.raises(sl.ArgumentError, match=match):
            lp_sparsemap(graph, *args, **options)
    with pytest.raises(sl.ArgumentError, match="graph: got Pair; expected a FactorGraph"):
        lp_sparsemap(Pair(), scores)
    other = FactorGraph(4)
    other.add(Pair(), [[0, 1], [1, 2], [2, 0], [1, 3]])
    with pytest.raises(sl.ArgumentError, match="init: got an answer for"):
        lp_sparsemap(graph, scores, coupling, init=solve(other, scores, coupling))


def test_an_empty_batch_with_shared_extra_scores():
    graph = sl.FactorGraph(variables=3)
    graph.add(sl.Xor(2), [0, 1])
    graph.add(sl.Pair(), [1, 2])
    assert sl.lp_sparsemap(graph, torch.zeros(0, 3), torch.zeros(1)).marginals.shape == (0, 3)


def test_whoever_reads_it_first_does_not_take_the_graph(generator):
    graph = sl.FactorGraph(variables=3)
    graph.add(sl.Xor(2), [0, 1])
    graph.add(sl.Pair(), [1, 2])
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def slope(post):
        value = post.marginals.square().sum() + post.objective.sum()
        value = value + sum(q.entropy().sum() + q.mean.square().sum() for q in post.distributions)
        return torch.autograd.grad(value, x)[0]

    want = slope(sl.lp_sparsemap(graph, x, torch.ones(1, dtype=torch.float64)))
    post = sl.lp_sparsemap(graph, x, torch.ones(1, dtype=torch.float64))
    with torch.inference_mode():
        assert post.objective.shape == post.distributions[0].entropy().shape == (4,)
        assert post.marginals.shape == (4, 3)
    torch.testing.assert_close(slope(post), want)
