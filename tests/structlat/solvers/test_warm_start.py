"""Loading a support: an earlier answer, one that is no answer at all, and Frank-Wolfe's."""

import pytest
import torch

import structlat as sl
from structlat.solvers.active_set import active_set
from tests.judge import draw, enumerated_sparsemap, forbid


def solve(structure, inputs, init=None, **options):
    settings = {"tol": 1e-9, "max_iter": None, "validate": False, "keep_trace": False, **options}
    return active_set(structure, inputs[0], tuple(inputs[1:]), structure.argmax(*inputs), init=init, **settings)


def mean_of(structure, z, p):
    a = structure.vertex(z).flatten(2).double()
    return (p.unsqueeze(-1) * a).sum(1)


def objective(structure, inputs, z, p):
    t = structure.score(z, *(x.unsqueeze(1) for x in inputs))
    return (p * torch.where(p > 0, t, 0)).sum(-1) - mean_of(structure, z, p).square().sum(-1) / 2


def spaces():
    return [
        sl.LinearChain(3, 3),
        sl.BipartiteMatching(3, 3),
        sl.BudgetBitVector(5, 2, symmetric=False),
        sl.BitVector(5, symmetric=False),
        sl.Categorical(6),
    ]


@pytest.mark.parametrize(("change", "times"), [(1e-3, 8), (1e-2, 5), (1e-1, 2)])
def test_fewer_rounds(generator, change, times):
    structure = sl.BipartiteMatching(10, 10)
    inputs = draw(structure, generator, 16)
    before = solve(structure, inputs)
    moved = [x + change * torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]
    cold, warm = solve(structure, moved), solve(structure, moved, (before.z, before.p))
    assert warm.converged.all()
    torch.testing.assert_close(
        mean_of(structure, warm.z, warm.p), mean_of(structure, cold.z, cold.p), atol=1e-6, rtol=0
    )
    assert cold.iterations.double().mean() >= times * warm.iterations.double().mean()


@pytest.mark.parametrize("structure", spaces(), ids=repr)
def test_any_start_leads_to_the_answer(structure, generator):
    """From random structures, repeated and dependent ones among them; some of which the new scores forbid."""
    every = structure.enumerate()
    for kind in ("normal", "integer", "equal"):
        for masked in (False, True):
            inputs = draw(structure, generator, 5, kind=kind)
            if masked:
                inputs = forbid(structure, inputs, generator)
            chosen = torch.randint(len(every), (5, 20), generator=generator)
            p = torch.rand(5, 20, generator=generator, dtype=torch.float64)
            p[:, ::4] = 0
            solution = solve(structure, inputs, (every[chosen], p / p.sum(1, keepdim=True)))
            assert solution.converged.all()
            want = enumerated_sparsemap(structure, inputs[0], inputs[1:]).flatten(1)
            assert (mean_of(structure, solution.z, solution.p) - want).abs().max() < 1e-7


def test_the_answer_itself_takes_one_round(generator):
    for structure in spaces():
        inputs = draw(structure, generator, 4)
        before = solve(structure, inputs)
        again = solve(structure, inputs, (before.z, before.p))
        assert (again.iterations == 1).all()
        torch.testing.assert_close(
            mean_of(structure, again.z, again.p), mean_of(structure, before.z, before.p), atol=1e-12, rtol=0
        )


def test_a_start_that_is_forbidden_now(generator):
    structure = sl.BitVector(6, symmetric=False)
    x = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    x[0, 0] = -torch.inf
    all_on = torch.ones(2, 1, 6, dtype=torch.float64)
    solution = solve(structure, [x], (all_on, torch.ones(2, 1, dtype=torch.float64)))
    torch.testing.assert_close(mean_of(structure, solution.z, solution.p), x.clamp(0, 1), atol=1e-8, rtol=0)


@pytest.mark.parametrize("solver", ["active_set", "active_set_torch", "away", "pairwise"])
def test_a_start_from_another_space(solver, generator):
    """What is no structure of this one is left out: of a larger budget, of fewer restrictions, with other labels."""
    x = torch.randn(30, 6, generator=generator, dtype=torch.float64) + 0.5
    costs = [1, 2, 3, 2, 1, 4]
    off = torch.tensor([True, False, True, False, False, False])
    spaces = [sl.Knapsack(costs, 9), sl.Knapsack(costs, 5), sl.Restricted(sl.BitVector(6), off=off), sl.BitVector(6)]
    for before in spaces:
        start = sl.sparsemap(before, x)
        for after in spaces:
            if not after.closed_form(x):
                post = sl.sparsemap(after, x, init=start, solver=solver)
                assert post.info.converged.all()
                assert (after.contains(post.structures) | (post.probs == 0)).all()
                torch.testing.assert_close(post.mean, sl.sparsemap(after, x).mean, atol=1e-6, rtol=1e-6)
    chains = [sl.LinearChain(3, 4), sl.LinearChain(3, 2)]  # of the labels 2 and 3 the second knows nothing
    scores = [torch.randn(5, *s.shape, generator=generator) for s in chains]
    extra = [torch.randn(5, *s.extra_shapes[0], generator=generator) for s in chains]
    start = sl.sparsemap(chains[0], scores[0], extra[0])
    post = sl.sparsemap(chains[1], scores[1], extra[1], init=start, solver=solver)
    torch.testing.assert_close(post.mean, sl.sparsemap(chains[1], scores[1], extra[1]).mean, atol=1e-5, rtol=1e-5)
