"""The rest of q, from which sum-and-sample draws: listed, drawn until one is another, or taken apart."""

import networkx
import pytest
import torch
from scipy.stats import chisquare

import structlat as sl
from structlat.estimators import SumAndSample, rest
from tests.judge import draw, forbid, softmax
from tests.structlat.estimators.problems import SPACES, Problem, assert_mean

WAYS = ("listed", "drawn", "apart")
TRACTABLE = (
    *SPACES[:4],
    sl.LinearChain(1, 4),
    sl.DependencyTree(3),
    sl.SpanningTree(networkx.cycle_graph(4)),
    sl.Product(sl.Categorical(3), sl.LinearChain(2, 2)),
)


@pytest.fixture
def make(monkeypatch):
    """An estimator that goes one of the ways, whatever the size of the space."""

    def made(structure, k, way, generator):
        estimator = SumAndSample(structure, k, generator=generator)
        estimator._listed = way == "listed"
        if way == "apart":
            monkeypatch.setattr(rest, "TRIES", ())
        return estimator

    return made


def asked(estimator, inputs):
    """Which structures the loss was asked about, and for which rows."""
    seen = []

    def loss(z, i):
        seen.append((z, i))
        return torch.ones(len(z))

    out = estimator(loss, *inputs)
    ((z, i),) = seen
    torch.testing.assert_close(out.value, torch.ones_like(out.value))  # all probabilities sum to 1
    assert torch.equal(torch.bincount(i, minlength=len(inputs[0])), out.calls)
    return z, i


@pytest.mark.parametrize("structure", TRACTABLE, ids=repr)
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_the_rest_is_drawn_by_its_law(structure, k, way, generator, make):
    one = forbid(structure, draw(structure, generator, 1, scale=0.7), generator, share=0.1)
    _, (p,), every = softmax(structure, one)
    rows = 300
    estimator = make(structure, k, way, generator)
    z, i = asked(estimator, [x.expand(rows, *x.shape[1:]) for x in one])
    number = (z.unsqueeze(1) == every.to(z.dtype)).reshape(len(z), len(every), -1).double().prod(-1).argmax(-1)
    order = p.argsort(descending=True, stable=True)
    kept = order[: min(k, int((p > 0).sum()))]
    assert sorted(number[i == 7][: len(kept)].tolist()) == sorted(kept.tolist())
    left = p.clone()
    left[kept] = 0
    if left.sum() < 1e-12:
        assert len(z) == rows * len(kept)
        return
    assert len(z) == rows * (len(kept) + 1)
    seen = torch.bincount(number[-rows:], minlength=len(p)).double()
    expected = rows * left / left.sum()
    assert (seen[expected == 0] == 0).all()
    rare = expected < 5
    both = [torch.cat([x[~rare], x[rare].sum().reshape(1)]) for x in (seen, expected)]
    there = both[1] > 0
    if there.sum() > 1:
        assert chisquare(both[0][there].numpy(), both[1][there].numpy()).pvalue > 1e-5


@pytest.mark.parametrize("structure", SPACES[:4], ids=repr)
@pytest.mark.parametrize("way", ["drawn", "apart"])
def test_means_are_the_exact_gradient_in_every_way(structure, way, generator, make):
    problem = Problem(structure)
    rows, tight = (20_000, 0.25) if way == "drawn" else (700, 0.6)  # to take apart goes row by row
    got, want = problem.estimates(make(structure, 2, way, generator), rows), problem.exact()
    assert_mean(got.inputs, want.inputs, tight)
    assert_mean(got.w, want.w, tight)


@pytest.mark.parametrize("structure", [sl.BitVector(16), sl.LinearChain(8, 3)], ids=repr)
def test_q_that_is_nearly_one_structure(structure, generator):
    """What is left has a probability far below what any number of draws would find, and is drawn by its law."""
    assert structure.cardinality() > 4096
    one = draw(structure, generator, 1)
    one[0] = one[0] + 14 * (2 * structure.vertex(sl.argmax(structure, *one)) - 1)
    _, (p,), every = softmax(structure, one)
    assert 1e-12 < 1 - p.amax() < 1e-4
    rows = 400
    z, _ = asked(SumAndSample(structure, generator=generator), [x.expand(rows, *x.shape[1:]) for x in one])
    others = z[-rows:]
    assert not (others == every[p.argmax()]).all(-1).any()
    second = p.argsort(descending=True)[1:3]
    expected = rows * p[second] / (1 - p.amax())
    seen = (others.unsqueeze(1) == every[second].to(z.dtype)).all(-1).sum(0)
    assert ((seen - expected).abs() < 5 * expected.sqrt()).all()


def test_a_row_without_a_rest(generator):
    """Fewer structures than k, one row masked down to a single one, and probabilities that rounding cannot tell."""
    x = torch.tensor([[0.0, 1.0, 2.0], [0.0, -torch.inf, -torch.inf], [0.0, 400.0, 0.0]], requires_grad=True)
    for k, calls in ((1, [2, 1, 1]), (2, [3, 1, 1]), (3, [3, 1, 1]), (5, [3, 1, 1])):
        estimator = SumAndSample(sl.Categorical(3), k, generator=generator)
        out = estimator(lambda z, i: z.double(), x)
        (slope,) = torch.autograd.grad(out.surrogate.sum(), x)
        assert out.calls.tolist() == calls, k
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("low", [-20.0, -60.0, -87.0, -95.0, -103.2, -103.9])
def test_a_rest_at_the_end_of_float32(k, low, generator):
    """Probabilities of e^-87 to e^-103 are there, but their inverses are not: gradients stay numbers."""
    x = torch.tensor([[-200.0, 0.0, -200.0, low, -200.0]] * 50, requires_grad=True)
    estimator = SumAndSample(sl.Categorical(5), k, generator=generator)
    out = estimator(lambda z, i: 100.0 + z, x)
    (slope,) = torch.autograd.grad(out.surrogate.sum(), x)
    assert torch.isfinite(slope).all()
    assert (out.calls == (2 if low == -20 else 1)).all()
    torch.testing.assert_close(slope.sum(-1), torch.zeros(50), rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", ["drawn", "apart"])
def test_a_row_without_a_rest_where_nothing_is_listed(way, make, generator):
    x = torch.tensor([[0.0, 1.0, 2.0], [-torch.inf, -torch.inf, -torch.inf], [50.0, -60.0, 50.0]]).requires_grad_()
    for k, calls in ((1, [2, 1, 1]), (8, [8, 1, 8]), (20, [8, 1, 8])):
        out = make(sl.BitVector(3), k, way, generator)(lambda z, i: z.sum(-1), x)
        (slope,) = torch.autograd.grad(out.surrogate.sum(), x)
        assert out.calls.tolist() == calls, k
        assert torch.isfinite(slope).all()


def test_a_large_space_costs_a_sample(generator):
    structure, seen = sl.BitVector(200), []
    x = torch.randn(6, 200, generator=generator, requires_grad=True)
    out = SumAndSample(structure, 3, generator=generator)(lambda z, i: seen.append(z) or z.mean(-1), x)
    out.surrogate.mean().backward()
    assert out.calls.tolist() == [4] * 6
    assert seen[0].shape == (24, 200)
    assert torch.isfinite(x.grad).all()
