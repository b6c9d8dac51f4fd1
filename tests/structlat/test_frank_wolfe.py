"""The Frank-Wolfe methods: each step by itself, where they end, and how a support becomes affinely independent."""

import pytest
import torch

import structlat as sl
from structlat.solvers.batched import STEPS, _start
from structlat.solvers.batched_oracle import Answer, Oracle
from structlat.solvers.batched_run import Run
from structlat.solvers.batched_state import State, average
from structlat.solvers.caratheodory import reduce
from structlat.solvers.corrective import settle
from structlat.solvers.steps import away, blended_pairwise, pairwise, vanilla
from tests.judge import draw, enumerated_sparsemap, forbid
from tests.structlat.batched_cases import (
    KINDS,
    LARGE,
    SPACES,
    certificate,
    check_invariants,
    check_solution,
    mean,
    run,
    small_problems,
)

METHODS = ("vanilla", "away", "pairwise", "blended_pairwise")
LINEAR = METHODS[1:]  # those that converge linearly on a polytope


def start(structure, inputs, method):
    oracle = Oracle(structure, inputs[0], tuple(inputs[1:]), validate=False)
    return Run(oracle, _start(oracle, structure.argmax(*inputs), None, method), STEPS[method], 1e-9, keep_trace=False)


@pytest.mark.parametrize("structure", SPACES, ids=repr)
@pytest.mark.parametrize("method", LINEAR)
def test_against_the_enumerated_program(structure, method, generator):
    for name, inputs in small_problems(structure, generator, (1.0,)):
        solution = run(structure, inputs, method, max_iter=3000)
        assert solution.converged.all(), name
        assert (mean(structure, solution) - enumerated_sparsemap(structure, inputs[0], inputs[1:])).abs().max() < 1e-6
        check_solution(structure, solution)


@pytest.mark.parametrize(
    ("method", "tol"), [("vanilla", 1e-2), *((method, tol) for method in LINEAR for tol in (1e-2, 1e-5))]
)
def test_to_a_gap_that_is_asked_for(method, tol, generator):
    for structure in SPACES:
        for kind in KINDS:
            inputs = forbid(structure, draw(structure, generator, 4, kind=kind), generator)
            solution = run(structure, inputs, method, tol=tol)
            assert solution.converged.all()
            largest = structure.vertex(structure.enumerate()).reshape(structure.cardinality(), -1).sum(1).max()
            assert (certificate(structure, inputs, solution) <= tol * largest + 1e-12).all()
            difference = (mean(structure, solution) - enumerated_sparsemap(structure, inputs[0], inputs[1:])).flatten(1)
            assert (difference.norm(dim=1) <= (2 * solution.gap).sqrt() + 1e-7).all()
            check_solution(structure, solution)


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1e3, 1e6])
@pytest.mark.parametrize("method", LINEAR)
def test_scales(method, scale, generator):
    for structure in SPACES:
        if structure.extra_shapes and scale < 1:
            continue  # the next test says why
        inputs = draw(structure, generator, 4, scale)
        solution = run(structure, inputs, method, tol=1e-6)
        assert solution.converged.all()
        want = enumerated_sparsemap(structure, inputs[0], inputs[1:])
        assert ((mean(structure, solution) - want).flatten(1).norm(dim=1) <= (2 * solution.gap).sqrt() + 1e-7).all()


@pytest.mark.parametrize("method", METHODS)
def test_tiny_extra_scores_are_slow_and_it_says_so(method, generator):
    """Where the quadratic is flat, small slopes are all that is left to go by: what was reached is what is said."""
    chain = sl.LinearChain(4, 3)
    inputs = draw(chain, generator, 4, 1e-6)
    solution = run(chain, inputs, method, tol=1e-6, max_iter=40)
    assert (solution.iterations == 40).all()
    gap = certificate(chain, inputs, solution)
    torch.testing.assert_close(gap, solution.gap, atol=1e-14, rtol=0)
    assert torch.equal(solution.converged, gap < 1e-11)
    assert run(chain, inputs, "active_set_torch", tol=1e-6).converged.all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("structure", "scale"), LARGE, ids=repr)
def test_what_holds_after_every_step(structure, scale, method, generator):
    work = start(structure, draw(structure, generator, 4, scale), method)
    last = torch.full((4,), -torch.inf, dtype=torch.float64)
    for _ in range(80):
        work.make_room(1)
        work.advance()
        last = check_invariants(work.state, last)
        kept = work.state.v.flatten(0, 1)[work.state.p.flatten() > 0]
        rows = torch.arange(4).repeat_interleave(work.state.size())
        both = torch.cat([rows.unsqueeze(1).double(), kept], 1)
        assert len(torch.unique(both, dim=0)) == len(both)  # no structure is there twice


def test_the_linear_ones_are_faster(generator):
    bits = sl.BitVector(24, symmetric=False)
    inputs = draw(bits, generator, 8)
    rounds = {}
    for method in METHODS:
        trace = run(bits, inputs, method, max_iter=400, keep_trace=True).trace
        rounds[method] = (torch.nan_to_num(trace.gap, nan=0.0) > 1e-7).sum(0).double().mean()
    assert rounds["vanilla"] == 400
    assert all(rounds[method] < 250 for method in LINEAR)


def test_a_support_stays_bounded(generator):
    """Vanilla steps drop nothing: what has piled up is reduced to what can be affinely independent."""
    bits = sl.BitVector(6, symmetric=False)
    chain = sl.LinearChain(3, 3)
    for structure in (bits, chain):
        inputs = draw(structure, generator, 4, 0.2)
        trace = run(structure, inputs, "vanilla", max_iter=300, keep_trace=True).trace
        parts = structure.shape.numel()
        assert trace.support_size.max() <= 2 * (parts + 1) + 8


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("max_iter", [1, 3, 10, 17])
def test_an_early_end_is_a_distribution_with_its_own_gap(method, max_iter, generator):
    for structure in SPACES:
        inputs = draw(structure, generator, 4, 0.7)
        solution = run(structure, inputs, method, max_iter=max_iter, keep_trace=True)
        check_solution(structure, solution)
        torch.testing.assert_close(certificate(structure, inputs, solution), solution.gap, atol=1e-11, rtol=0)
        assert torch.equal(solution.iterations, torch.isfinite(solution.trace.gap).sum(0))
        assert torch.equal(solution.oracle_calls, solution.iterations + 2)  # the first, and the certificate's


@pytest.mark.parametrize("method", METHODS)
def test_the_same_answer_as_the_active_set(method, generator):
    matching = sl.BipartiteMatching(6, 6)
    inputs = draw(matching, generator, 6)
    want = mean(matching, run(matching, inputs, "active_set_torch"))
    solution = run(matching, inputs, method, max_iter=2000)
    assert ((mean(matching, solution) - want).flatten(1).norm(dim=1) <= (2 * solution.gap).sqrt() + 1e-8).all()
    assert method == "vanilla" or solution.converged.all()


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_a_loop_over_its_rows(method, generator):
    chain = sl.LinearChain(5, 3)
    inputs = draw(chain, generator, 4)
    whole = run(chain, inputs, method, max_iter=40)
    for row in range(4):
        one = run(chain, [x[row : row + 1] for x in inputs], method, max_iter=40)
        torch.testing.assert_close(mean(chain, one)[0], mean(chain, whole)[row], atol=1e-9, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_init(method, generator):
    matching = sl.BipartiteMatching(4, 4)
    inputs = draw(matching, generator, 6)
    tol = 1e-2 if method == "vanilla" else 1e-9
    cold = run(matching, inputs, method, tol=tol)
    warm = run(matching, inputs, method, tol=tol, init=(cold.z, cold.p))
    assert warm.converged.all()
    assert (warm.iterations == 1).all()
    torch.testing.assert_close(mean(matching, warm), mean(matching, cold), atol=1e-12, rtol=0)


class Ways(sl.Structure):
    """One part, on or off, and three ways to go, which are not regularised: structures that share a vertex."""

    shape = torch.Size([1])
    extra_shapes = (torch.Size([3]),)
    event_dtype = torch.int64
    event_shape = torch.Size([2])

    def argmax(self, scores, ways):
        return torch.stack([(scores[:, 0] > 0).long(), ways.argmax(-1)], -1)

    def vertex(self, z):
        return z[..., :1].double()

    def score(self, z, scores, ways):
        part = torch.where(z[..., 0] > 0, scores[..., 0], 0)
        lead = torch.broadcast_shapes(z.shape[:-1], ways.shape[:-1])
        way = z[..., 1].expand(lead).unsqueeze(-1)
        return part + ways.expand(*lead, 3).gather(-1, way).squeeze(-1)


@pytest.mark.parametrize("method", STEPS)
def test_structures_that_differ_in_extra_parts_alone(method):
    """The objective is a straight line between them: a step along it goes to its end."""
    ways = Ways()
    scores = torch.tensor([[0.4], [2.0], [-1.0]], dtype=torch.float64)
    extra = torch.tensor([[0.0, 1.0, 0.5]], dtype=torch.float64).repeat(3, 1)
    worst = torch.tensor([[0, 0], [1, 2]]).expand(3, 2, 2)
    solution = run(ways, [scores, extra], method, init=(worst, torch.full((3, 2), 0.5)), tol=1e-6, validate=False)
    assert (solution.z[..., 1] == 1).all()
    torch.testing.assert_close(mean(ways, solution), scores.clamp(0, 1), atol=1e-3, rtol=0)


# As sparsemap calls them.


@pytest.mark.parametrize("method", STEPS)
@pytest.mark.parametrize("structure", [sl.BitVector(6), sl.LinearChain(4, 3), sl.BipartiteMatching(3, 3)], ids=repr)
def test_sparsemap_takes_them_by_name(structure, method, generator):
    inputs = [x.requires_grad_() for x in draw(structure, generator, 3)]
    gamma = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    tol = 1e-3 if method == "vanilla" else 1e-9
    post = sl.sparsemap(structure, *inputs, gamma=gamma, solver=method, tol=tol, on_failure="raise", trace=True)
    want = sl.sparsemap(structure, *inputs, gamma=gamma, solver="active_set")
    # f is gamma-strongly concave in mu: each answer is within sqrt(2 gap / gamma) of the optimum
    assert ((post.mean - want.mean).flatten(1).norm(dim=1) <= (2 * post.info.gap / gamma).sqrt() + 1e-7).all()
    assert post.info.trace.gap.shape == post.info.trace.support_size.shape == (int(post.info.iterations.max()), 3)
    direction = torch.randn(post.mean.shape, generator=generator, dtype=torch.float64)
    if method != "vanilla":
        for ours, theirs in zip(
            *(torch.autograd.grad((x.mean * direction).sum(), inputs) for x in (post, want)), strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    again = sl.sparsemap(structure, *inputs, gamma=gamma, solver=method, tol=tol, init=post)
    assert (again.info.iterations == 1).all()


def test_sparsemap_says_where_one_did_not_converge(generator):
    x = draw(sl.BitVector(40), generator, 4)[0]
    with pytest.warns(sl.NonConvergenceWarning, match="Stopped before the certificate in rows 0, 1, 2, 3"):
        post = sl.sparsemap(sl.BitVector(40), x, solver="vanilla", max_iter=10)
    assert not post.info.converged.any()


# The steps by hand: three corners of a square in the plane, and an answer.


def square():
    v = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    scores = torch.tensor([[0.9, 0.4]], dtype=torch.float64)
    t = (v @ scores.unsqueeze(-1)).squeeze(-1)
    blank = torch.zeros_like(t, dtype=torch.bool)
    state = State.start(Answer(v, v, t, t, blank), torch.tensor([[0.2, 0.5, 0.3, 0.0]]))
    corner = torch.ones(1, 2, dtype=torch.float64)
    answer = Answer(corner, corner, scores.sum(-1), scores.sum(-1), blank[:, 0])
    return state, state.hear(answer, 1e-9)


def test_directions():
    state, heard = square()
    # the gradient at the mean (0.5, 0.3) is (0.4, 0.1), the level 0.23
    torch.testing.assert_close(heard.gain, torch.tensor([0.27], dtype=torch.float64))
    expected = torch.tensor([[-0.23, 0.17, -0.13, 0.27]], dtype=torch.float64)
    torch.testing.assert_close(heard.slope, expected)
    for direction, weights in (
        (vanilla, [-0.2, -0.5, -0.3, 1.0]),
        (away, [-0.2, -0.5, -0.3, 1.0]),  # 0.27 towards the answer is steeper than 0.23 away from the worst
        (pairwise, [-1.0, 0.0, 0.0, 1.0]),
        (blended_pairwise, [-1.0, 1.0, 0.0, 0.0]),  # 0.4 inside the support is steeper than 0.27
    ):
        torch.testing.assert_close(direction(state, heard), torch.tensor([weights], dtype=torch.float64))
    further = heard._replace(gain=torch.tensor([0.1], dtype=torch.float64))
    backwards = torch.tensor([[-0.8, 0.5, 0.3, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(away(state, further), backwards)


@pytest.mark.parametrize("method", METHODS)
def test_the_line_search_is_exact(method):
    """Where a step ends, the slope along its direction is zero, or one structure more has none."""
    state, heard = square()
    direction = {"vanilla": vanilla, "away": away, "pairwise": pairwise, "blended_pairwise": blended_pairwise}[method]
    weights = direction(state, heard)
    before = state.p.clone()
    STEPS[method](state, heard)
    along = average(weights, state.v)
    slope = (weights * state.t).sum(-1) - (along * state.mean).sum(-1)
    dropped = ((before > 0) & (state.p == 0)).any(-1)
    assert ((slope.abs() < 1e-12) | dropped).all()
    assert (state.p != before).any()


# Caratheodory.


@pytest.mark.parametrize(("structure", "scale"), [(SPACES[1], 1.0), (SPACES[4], 1.0), (SPACES[5], 0.1), (Ways(), 1.0)])
def test_reduce(structure, scale, generator):
    """The mean stays, the objective never goes down, and no more than an affinely independent support is left."""
    every = (
        structure.enumerate()
        if not isinstance(structure, Ways)
        else torch.cartesian_prod(torch.arange(2), torch.arange(3))
    )
    every = every.repeat(2, *(1,) * (every.ndim - 1))  # each twice
    inputs = draw(structure, generator, 5, scale)
    oracle = Oracle(structure, inputs[0], tuple(inputs[1:]), validate=False)
    weights = torch.rand(5, len(every), generator=generator, dtype=torch.float64)
    weights[torch.rand(weights.shape, generator=generator) < 0.3] = 0
    state = State.start(oracle.describe(every.expand(5, *every.shape)), weights)
    before, worth = state.mean.clone(), (state.p * state.t).sum(1)
    reduce(state)
    torch.testing.assert_close(state.mean, before, atol=1e-12, rtol=0)
    assert ((state.p * state.t).sum(1) >= worth - 1e-12).all()
    assert ((state.p.sum(1) - 1).abs() < 1e-12).all()
    for row in range(5):
        a = state.v[row][state.p[row] > 0]
        assert torch.linalg.matrix_rank(torch.cat([a, torch.ones(len(a), 1)], 1)) == len(a)
    mid = (state.p * state.t).sum(1) - state.mean.square().sum(1) / 2
    settle(state)
    assert (check_invariants(state, mid) >= mid - 1e-12).all()
    # at the optimum of the support every structure of it has the same slope
    assert state.slopes().abs().max() < 1e-12
