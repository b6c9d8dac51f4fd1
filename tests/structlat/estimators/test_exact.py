"""Estimators without sampling: the enumerated sum, its gradient, its calls."""

import pytest
import torch
from torch.autograd import gradcheck

import structlat as sl
from structlat import estimators
from structlat.estimators import Exact
from tests.structlat.estimators.problems import SPACES, Problem, loss_of

NAMES = ("softmax", "sparsemax", "topk", "sparsemap")
each_space = pytest.mark.parametrize("structure", SPACES, ids=repr)


def evaluate(estimator, structure, *leaves):
    *inputs, w = leaves
    return estimator(lambda z, i: loss_of(w[i], structure.vertex(z).double()), *inputs)


@each_space
def test_softmax_is_the_enumerated_sum(structure):
    problem = Problem(structure)
    got, want = problem.estimates(estimators.get("softmax")(structure), 2), problem.exact()
    for row in range(2):
        torch.testing.assert_close(got.value[row], want.value)
        torch.testing.assert_close(got.inputs[row], want.inputs)
        torch.testing.assert_close(got.w[row], want.w)


@each_space
def test_sparsemax_is_the_enumerated_sum(structure):
    problem = Problem(structure)
    got = problem.estimates(estimators.get("sparsemax")(structure), 1)
    *inputs, w = leaves = problem.leaves()
    every = structure.enumerate()
    p = sl.sparsemax(structure.score(every, *inputs))
    value = (p * loss_of(w.unsqueeze(0), structure.vertex(every).double())).sum()
    slopes = torch.autograd.grad(value, leaves)
    torch.testing.assert_close(got.value[0], value.detach())
    torch.testing.assert_close(got.inputs[0], torch.cat([x.reshape(-1) for x in slopes[:-1]]))
    torch.testing.assert_close(got.w[0], slopes[-1].reshape(-1))


@each_space
@pytest.mark.parametrize("name", [*NAMES, "sparsemap, gamma"])
def test_surrogates_are_the_value_and_have_its_derivatives(structure, name):
    """By differences: the number of an exact surrogate is the expectation itself."""
    options = {"gamma": 0.7} if "gamma" in name else {"k": 3} if name == "topk" else {}
    estimator = estimators.get(name.split(",")[0])(structure, **options)
    *inputs, w = leaves = [x.unsqueeze(0).detach().requires_grad_() for x in Problem(structure, scale=0.3).leaves()]
    assert gradcheck(lambda *x: evaluate(estimator, structure, *x).surrogate, leaves)
    out = evaluate(estimator, structure, *leaves)
    post = estimator.layer(*inputs)
    losses = loss_of(w, structure.vertex(post.structures[0]).double())
    torch.testing.assert_close(out.surrogate, (post.probs * losses).sum(-1))
    torch.testing.assert_close(out.value, out.surrogate.detach())
    torch.testing.assert_close(out.entropy, post.entropy())
    assert torch.equal(out.calls, post.support_size)
    if name != "softmax":
        assert int(out.calls) < structure.cardinality()


def test_bits_within_a_budget():
    bits = sl.BitVector(6, symmetric=False)
    for estimator, budget in (
        (estimators.get("sparsemap-budget")(bits), 3),
        (estimators.get("sparsemap-budget")(bits, budget=2, gamma=0.5), 2),
        (estimators.get("sparsemap-budget")(sl.BudgetBitVector(6, 1)), 1),
    ):
        seen = []
        estimator(lambda z, i: seen.append(z.sum(-1)) or z.sum(-1), torch.full((2, 6), 3.0))  # noqa: B023
        assert float(seen[0].max()) == budget
    assert estimators.get("sparsemap-budget")(bits).structure.symmetric is False
    with pytest.raises(NotImplementedError, match=r"sparsemap-budget: not defined for Categorical\(3\).*would do"):
        estimators.get("sparsemap-budget")(sl.Categorical(3))
    flips = sl.BitVector(3, decomposition="flips")
    with pytest.raises(sl.ArgumentError, match=r"structure: got BitVector.*decomposition='flips'; expected 'levels'"):
        estimators.get("sparsemap-budget")(flips, vertices=True)
    with pytest.raises(sl.ArgumentError, match="budget: got 2 for BudgetBitVector"):
        estimators.get("sparsemap-budget")(sl.BudgetBitVector(6, 1), budget=2)
    with pytest.raises(sl.ArgumentError, match="budget: got -1"):
        estimators.get("sparsemap-budget")(bits, budget=-1)


def test_any_layer_that_lists_a_support():
    chain = sl.LinearChain(3, 2)
    gamma = torch.nn.Parameter(torch.tensor(0.8))
    estimator = Exact(sl.SparseMAP(chain, gamma=gamma, solver="pairwise"))
    assert dict(estimator.named_parameters())["layer.gamma"] is gamma
    x, t = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 2)
    estimator(lambda z, i: z.double().sum(-1), x, t).surrogate.mean().backward()
    assert float(gamma.grad.abs()) > 0
    assert "solver='pairwise'" in repr(estimator)
    for layer in (sl.SparseMAP(), sl.sparsemap, torch.nn.Linear(2, 2)):
        with pytest.raises(sl.ArgumentError, match=r"layer: got .*; expected a module such as"):
            Exact(layer)

    class Point(torch.nn.Module):
        structure = chain

        def forward(self, scores, *extra):
            return scores

    with pytest.raises(sl.ArgumentError, match="layer: returned Tensor; expected a SparseDistribution"):
        Exact(Point())(lambda z, i: z.double().sum(-1), x, t)


@pytest.mark.parametrize("name", ["softmax", "sparsemax"])
def test_what_cannot_be_listed_is_refused_at_once(name):
    with pytest.raises(NotImplementedError, match=rf"{name}: not defined for LinearChain\(20, 3\), for .*3,486,784"):
        estimators.get(name)(sl.LinearChain(20, 3))
