import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jvp, vmap

import structlat as sl
from structlat.losses import CRFLoss, HingeLoss, PerceptronLoss, PerturbedLoss, SparseMAPLoss
from structlat.structure import FromArgmax
from structlat.tractable import Tractable
from tests.judge import draw, enumerated_sparsemap, finite_difference, forbid


class Pairs(Tractable):
    """Two neighbours among four: a user's space with a log-partition function, here by listing all of them."""

    shape = torch.Size([4])

    def argmax(self, scores, *extra):
        return self._rows[self.score(self._rows, scores.unsqueeze(1)).argmax(1)]

    def _log_partition(self, scores, *extra):
        return self.score(self._rows, scores.unsqueeze(1)).logsumexp(1)

    def _sample(self, scores, *extra, count, generator):
        raise NotImplementedError

    @property
    def _rows(self):
        return torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.float64)


def best_interval(s):
    """The run of neighbours, at least one, of highest total score: an oracle that is all there is."""
    runs = [np.r_[np.zeros(i), np.ones(j - i), np.zeros(4 - j)] for i in range(4) for j in range(i + 1, 5)]
    return max(runs, key=lambda a: a @ s)


SPACES = (
    sl.Categorical(4),
    sl.BitVector(3),
    sl.BitVector(3, symmetric=False),
    sl.BudgetBitVector(4, 2),
    sl.LinearChain(3, 2),
    sl.BipartiteMatching(3, 3),
    sl.BipartiteMatching(2, 3, partial=True),
    sl.Structure.from_argmax(best_interval, 4),
    Pairs(),
)
GAMMAS = {"sparsemap": 0.6, "sparsemap, active set": 1.4}
MAKERS = {
    "perceptron": PerceptronLoss,
    "hinge": lambda structure: HingeLoss(structure, margin=0.7),
    "sparsemap": lambda structure: SparseMAPLoss(structure, gamma=GAMMAS["sparsemap"]),
    "sparsemap, active set": lambda structure: SparseMAPLoss(
        structure, gamma=GAMMAS["sparsemap, active set"], solver="active_set"
    ),
    "crf": CRFLoss,
    "perturbed": lambda structure: Reseeded(structure, samples=7, scale=0.8),
    "perturbed, gumbel": lambda structure: Reseeded(structure, samples=7, scale=0.8, noise="gumbel"),
}


class Reseeded(PerturbedLoss):
    """The same noise at each call: a function that can be differentiated by differences."""

    def forward(self, *args, **kwargs):
        self.generator = torch.Generator().manual_seed(3)
        return super().forward(*args, **kwargs)


def has_log_partition(structure):
    return type(structure).log_partition is not sl.Structure.log_partition


CASES = [(s, name) for s in SPACES for name in MAKERS if name != "crf" or has_log_partition(s)]
each_case = pytest.mark.parametrize(("structure", "name"), CASES, ids=str)
# what every loss and space goes through in the same way
FEW = [
    (s, name)
    for s, name in CASES
    if type(s) in {sl.BitVector, sl.LinearChain, FromArgmax} and s is not SPACES[2] and "," not in name
]
each_of_a_few = pytest.mark.parametrize(("structure", "name"), FEW, ids=str)


def targets(structure, generator, rows, feasible_for=None):
    """A random structure for each row; with scores, one that they allow."""
    every = structure.enumerate()
    if feasible_for is None:
        return every[torch.randint(len(every), (rows,), generator=generator)]
    allowed = torch.isfinite(structure.score(every[None], *(x[:, None] for x in feasible_for))).double()
    return every[torch.multinomial(allowed, 1, generator=generator)[:, 0]]


def enumerated_loss(name, structure, inputs, target):
    """Losses [B] from the list of all structures, row by row, in plain formulas."""
    every = structure.enumerate()
    a = structure.vertex(every).double().flatten(1)
    values = []
    for row in range(len(target)):
        one = [x[row : row + 1] for x in inputs]
        y = target[row : row + 1]
        s, s_y = structure.score(every, *one), structure.score(y, *one)[0]
        a_y = structure.vertex(y).double().flatten()
        if name == "perceptron":
            value = s.max()
        elif name == "hinge":
            value = (s + 0.7 * (a - a_y).abs().sum(1)).max()
        elif name == "crf":
            value = s.logsumexp(0)
        else:
            gamma = GAMMAS[name]
            mu = enumerated_sparsemap(structure, one[0], one[1:], gamma).flatten()
            # at the optimum all that has probability has the highest slope: a bound on the maximum, and attained
            if structure.symmetric:
                best = (s - gamma * a @ (2 * mu - 1)).max() + gamma * mu @ mu - gamma * len(mu) / 2
                value = best + gamma / 2 * (a_y.square() + (1 - a_y).square()).sum()
            else:
                value = (s - gamma * a @ mu).max() + gamma / 2 * mu @ mu + gamma / 2 * a_y.sum()
        values.append(value - s_y)
    return torch.stack(values)


@each_case
@pytest.mark.parametrize("masked", [False, True])
def test_values_against_enumeration(structure, name, masked, generator):
    for kind, scale in (("normal", 1.0), ("normal", 1e-3), ("normal", 30.0), ("integer", 1.0), ("equal", 1.0)):
        inputs = draw(structure, generator, 3, scale, kind)
        if masked:
            inputs = forbid(structure, inputs, generator)
        y = targets(structure, generator, 3, inputs)
        got = MAKERS[name](structure)(*inputs, target=y)
        assert got.shape == (3,)
        assert got.dtype == torch.float64
        assert (got >= 0).all()
        if "perturbed" not in name:
            want = enumerated_loss(name, structure, inputs, y)
            assert (got - want).abs().max() < 1e-8 * max(scale, 1)


@pytest.mark.parametrize("structure", SPACES, ids=repr)
def test_perturbed_values_against_enumeration(structure, generator):
    """The same noise, drawn here: the mean over it of the best perturbed score less that of the target."""
    inputs = draw(structure, generator, 3)
    y = targets(structure, generator, 3)
    every = structure.enumerate()
    noise = torch.randn(7, 3, *structure.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    value = torch.zeros(3, dtype=torch.float64)
    for z in noise:
        moved = [inputs[0] + 0.8 * z, *inputs[1:]]
        best = structure.score(every[None], *(x[:, None] for x in moved)).amax(1)
        value += (best - structure.score(y, *moved)) / 7
    torch.testing.assert_close(MAKERS["perturbed"](structure)(*inputs, target=y), value, rtol=0, atol=1e-12)


def every_argument(structure, generator, name, rows=3):
    """Scores, extra scores and, where there is one, gamma, all with gradients; and the function of them."""
    inputs = [x.requires_grad_() for x in draw(structure, generator, rows)]
    y = targets(structure, generator, rows)
    if name not in GAMMAS:
        return (lambda *x: MAKERS[name](structure)(*x, target=y)), inputs
    gamma = torch.linspace(0.7, 1.3, rows, dtype=torch.float64, requires_grad=True)
    solver = "auto" if name == "sparsemap" else "active_set"

    def call(gamma, *x):
        return SparseMAPLoss(structure, gamma=gamma, solver=solver)(*x, target=y)

    return call, [gamma, *inputs]


@each_case
def test_first_and_second_derivatives(structure, name, generator):
    fn, inputs = every_argument(structure, generator, name)
    assert gradcheck(fn, inputs)
    assert gradgradcheck(fn, inputs)


@each_case
def test_slopes_are_the_marginals_less_the_target(structure, name, generator):
    inputs = [x.requires_grad_() for x in draw(structure, generator, 4)]
    y = targets(structure, generator, 4)
    got = torch.autograd.grad(MAKERS[name](structure)(*inputs, target=y).sum(), inputs)
    a_y, n_y = structure.vertex(y).double(), ()
    if structure.extra_shapes:
        n_y = torch.autograd.grad(structure.score(y, *inputs).sum(), inputs[1:])
    every = structure.enumerate()
    if name == "perceptron":
        z = sl.argmax(structure, *inputs)
        want = structure.vertex(z).double()
    elif name == "hinge":
        distance = (structure.vertex(every)[None] - a_y[:, None]).abs().flatten(2).sum(-1)
        s = structure.score(every[None], *(x[:, None] for x in inputs)) + 0.7 * distance
        want = structure.vertex(every[s.argmax(1)]).double()
    elif name in GAMMAS:
        scores, *extra = (x.detach() for x in inputs)
        want = enumerated_sparsemap(structure, scores, extra, GAMMAS[name])
        post = sl.sparsemap(structure, scores, *extra, gamma=GAMMAS[name])
        for slope, used, by_target in zip(got[1:], post.extra_marginals, n_y, strict=True):
            torch.testing.assert_close(slope, used - by_target, rtol=0, atol=1e-8)
    elif name == "crf":
        want = sl.marginalize(structure, *inputs).mean.detach()
    else:
        want = got[0] + a_y  # below: a mean of vertices
        counts = want * 7
        torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-12)
        assert (counts > -0.5).all()
        assert (counts < 7.5).all()
        return
    torch.testing.assert_close(got[0], want - a_y, rtol=0, atol=1e-7)


@pytest.mark.parametrize("structure", SPACES, ids=repr)
@pytest.mark.parametrize("gamma", [0.6, 1.5])
def test_hessian_of_the_sparsemap_loss_against_the_enumerated_program(structure, gamma, generator):
    inputs = draw(structure, generator, 1)
    y = targets(structure, generator, 1)
    n = inputs[0].numel()
    want = finite_difference(structure, inputs[0], inputs[1:], gamma)
    loss = SparseMAPLoss(structure, gamma=gamma, solver="active_set")
    for got in (
        torch.autograd.functional.hessian(lambda x: loss(x, *inputs[1:], target=y).sum(), inputs[0]),
        hessian(lambda x: loss(x, *inputs[1:], target=y).sum())(inputs[0]),
    ):
        assert (got.reshape(n, n) - want).abs().max() < 1e-6


def test_first_derivatives_ask_the_oracle_nothing(generator):
    calls = []

    def fn(s):
        calls.append(1)
        return best_interval(s)

    loss = SparseMAPLoss(sl.Structure.from_argmax(fn, 4), check_target=False)
    x = torch.randn(1, 4, generator=generator, dtype=torch.float64).requires_grad_()
    value = loss(x, target=torch.tensor([[0, 1, 1, 0]])).sum()
    asked = len(calls)
    torch.autograd.grad(value, x, retain_graph=True)
    assert len(calls) == asked > 0
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    assert slope.requires_grad
    assert len(calls) > asked


PRICES = torch.tensor([0.5, -0.3, 0.0, -torch.inf], dtype=torch.float64)


class Priced(sl.Structure):
    """Bits, each of which has a price beside its score, and that is not regularised."""

    shape = torch.Size([4])
    extra_shapes = (torch.Size([4]),)

    def argmax(self, scores, *extra):
        return (scores + extra[0] > 0).to(scores.dtype)

    def score(self, z, scores, *extra):
        return super().score(z, scores) + torch.where(z > 0, extra[0], 0).sum(-1)


class WithPricesOfItsOwn(Priced):
    own_extra = (PRICES,)

    def contains(self, z):
        return ((z == 0) | (z == 1)).all(-1)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "crf"])
def test_extra_scores_that_the_space_brings_itself(name, generator):
    """They count as those of a caller do."""
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    y = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 0]])
    one = MAKERS[name](WithPricesOfItsOwn())(x, target=y)
    other = MAKERS[name](Priced())(x, PRICES, target=y)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    for order in range(2):
        one, other = (torch.autograd.grad(v.sum(), x, create_graph=True)[0].square() for v in (one, other))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
        if "sparsemap" not in name:
            break
        assert order or one.requires_grad
    along = torch.cos(x.detach())
    tangents = (
        jvp(lambda x: MAKERS[name](WithPricesOfItsOwn())(x, target=y), (x.detach(),), (along,))[1],
        jvp(lambda x: MAKERS[name](Priced())(x, PRICES, target=y), (x.detach(),), (along,))[1],
    )
    torch.testing.assert_close(*tangents, rtol=0, atol=1e-9)
    y[1, 3] = 1
    with pytest.raises(sl.ArgumentError, match=r"target: uses what is forbidden in row 1 \(1 of 3\)"):
        MAKERS[name](WithPricesOfItsOwn())(x, target=y)


# Zero at a correct margin.


def margins(structure, y, size):
    """Scores at which each y beats every structure by ``size`` for each part they differ in."""
    return [size * (2 * structure.vertex(y).double() - 1)] + [
        torch.zeros(len(y), *s, dtype=torch.float64) for s in structure.extra_shapes
    ]


@each_case
def test_zero_at_a_correct_margin(structure, name, generator):
    y = structure.enumerate()
    # the noise is unbounded, and so far out that nobody meets it
    size = 1e3 if "perturbed" in name or name == "crf" else 1.4
    inputs = [x.requires_grad_() for x in margins(structure, y, size)]
    value = MAKERS[name](structure)(*inputs, target=y)
    slopes = torch.autograd.grad(value.sum(), inputs)
    if name == "crf":  # in reach of no finite margin, but for rounding
        assert (value < 1e-12).all()
        return
    assert (value == 0).all()
    assert all((slope == 0).all() for slope in slopes)
    assert (MAKERS[name](structure)(*(-x for x in inputs), target=y) > 0).all()


def test_the_margin_that_is_asked_for():
    """Bits at +-x: the hinge wants margin for each bit, SparseMAP gamma from the middle, plain SparseMAP from 0."""
    y = torch.tensor([1.0, 0.0])

    def at(loss, up, down):
        return float(loss(torch.tensor([up, down], dtype=torch.float64), target=y))

    assert at(HingeLoss(sl.BitVector(2), margin=0.5), 0.5, -0.5) == 0
    assert at(HingeLoss(sl.BitVector(2), margin=0.5), 0.4, -0.2) == pytest.approx(0.1 + 0.3)
    assert at(SparseMAPLoss(sl.BitVector(2), gamma=0.5), 0.5, -0.5) == 0
    # a bit with score x has mu = (x / gamma + 1) / 2 and costs gamma (1 - mu)^2
    assert at(SparseMAPLoss(sl.BitVector(2), gamma=0.5), 0.25, -0.5) == pytest.approx(0.5 * 0.25**2)
    plain = sl.BitVector(2, symmetric=False)
    assert at(SparseMAPLoss(plain, gamma=0.5), 0.5, 0.0) == 0
    assert at(SparseMAPLoss(plain, gamma=0.5), 0.25, 0.0) == pytest.approx(0.25 * 0.5**2)
    assert at(PerceptronLoss(plain), 0.1, -0.1) == 0


def test_a_wrong_label_counts_as_two_parts():
    x = torch.tensor([1.0, 0.0, -5.0], dtype=torch.float64)
    assert float(HingeLoss(sl.Categorical(3), margin=0.5)(x, target=torch.tensor(0))) == 0
    assert float(HingeLoss(sl.Categorical(3), margin=1.0)(x, target=torch.tensor(0))) == pytest.approx(1.0)


# What expectations the perturbed loss has.


@pytest.mark.parametrize("structure", [sl.Categorical(4), sl.BitVector(3), sl.BitVector(3, symmetric=False)], ids=repr)
def test_gumbel_noise_has_the_crf_loss_as_expectation(structure, generator):
    (x,) = draw(structure, generator, 3)
    y = targets(structure, generator, 3)
    loss = PerturbedLoss(structure, samples=40_000, noise="gumbel", generator=generator)
    every = structure.enumerate()
    want = structure.score(every[None], x[:, None]).logsumexp(1) - structure.score(y, x)
    assert (loss(x, target=y) - want).abs().max() < 0.05
    # the variance of the estimate is far below that of the noise, which enters with the target as without
    single = torch.stack([PerturbedLoss(structure, samples=1, generator=generator)(x, target=y) for _ in range(200)])
    assert (single >= 0).all()


def test_normal_noise_on_one_of_two(generator):
    """Clark 1961: the expected maximum of two normal numbers."""
    x, scale = torch.tensor([0.4, -0.1], dtype=torch.float64), 0.7
    spread = scale * math.sqrt(2)
    at = torch.tensor(0.5 / spread)
    normal = torch.distributions.Normal(0.0, 1.0)
    want = 0.4 * normal.cdf(at) - 0.1 * normal.cdf(-at) + spread * normal.log_prob(at).exp() + 0.1
    loss = PerturbedLoss(sl.Categorical(2), scale=scale, samples=40_000, generator=generator)
    assert float(loss(x, target=torch.tensor(1)) - want) == pytest.approx(0, abs=0.02)


def test_the_generator_alone_is_drawn_from():
    x, y = torch.zeros(2, 4), torch.tensor([0, 3])
    before = torch.get_rng_state()
    one, other = (PerturbedLoss(sl.Categorical(4), generator=torch.Generator().manual_seed(5)) for _ in range(2))
    first = one(x, target=y)
    assert torch.equal(first, other(x, target=y))
    assert not torch.equal(first, one(x, target=y))
    assert torch.equal(before, torch.get_rng_state())


# Shapes, dtypes, masks.


@each_of_a_few
@pytest.mark.parametrize("batch", [(), (4,), (2, 1, 3), (0,), (2, 0)])
def test_batch_dimensions(structure, name, batch):
    generator = torch.Generator().manual_seed(1)
    shapes = (structure.shape, *structure.extra_shapes)
    inputs = [torch.randn(*batch, *s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    y = targets(structure, generator, math.prod(batch)).reshape((*batch, *structure.event_shape))
    loss = MAKERS[name](structure)
    value = loss(*inputs, target=y)
    assert value.shape == batch
    slopes = torch.autograd.grad(value.sum(), inputs)
    if "perturbed" in name:  # its noise depends on the size of the batch
        return
    for row in range(math.prod(batch)):
        one = [x.detach().reshape(-1, *s)[row].requires_grad_() for x, s in zip(inputs, shapes, strict=True)]
        alone = loss(*one, target=y.reshape(-1, *structure.event_shape)[row])
        torch.testing.assert_close(alone, value.reshape(-1)[row], rtol=0, atol=1e-12)
        for slope, all_slopes, s in zip(torch.autograd.grad(alone, one), slopes, shapes, strict=True):
            torch.testing.assert_close(slope, all_slopes.reshape(-1, *s)[row], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for s, name in CASES if s is SPACES[4]])
def test_shared_extra_scores(name, generator):
    chain = sl.LinearChain(3, 2)
    unary, _ = draw(chain, generator, 4)
    y = targets(chain, generator, 4)
    shared = torch.randn(2, 2, generator=generator, dtype=torch.float64).requires_grad_()
    own = shared.detach().expand(4, 2, 2, 2).clone().requires_grad_()
    loss = MAKERS[name](chain)
    one, other = loss(unary, shared, target=y), loss(unary, own, target=y)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    (slope,), (slopes,) = torch.autograd.grad(one.sum(), shared), torch.autograd.grad(other.sum(), own)
    torch.testing.assert_close(slope, slopes.sum((0, 1)), rtol=0, atol=1e-10)


@each_of_a_few
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(structure, name, dtype, generator):
    inputs = [x.to(dtype).requires_grad_() for x in draw(structure, generator, 3)]
    y = targets(structure, generator, 3)
    loss = MAKERS[name](structure)
    value = loss(*inputs, target=y)
    assert value.dtype == torch.float32
    exact = loss(*(x.detach().double() for x in inputs), target=y)
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-6)
    assert all(slope.dtype == dtype for slope in torch.autograd.grad(value.sum(), inputs))


def test_dtypes_of_targets():
    x = torch.tensor([[1.0, -2.0, 0.5]])
    losses = (PerceptronLoss(sl.BitVector(3)), SparseMAPLoss(sl.BitVector(3)), HingeLoss(sl.BitVector(3)))
    for loss in losses:
        values = [loss(x, target=torch.tensor([[0, 1, 1]]).to(d)) for d in (torch.bool, torch.int64, torch.float16)]
        assert values[0] == values[1] == values[2] > 0
    for dtype in (torch.uint8, torch.int32):
        assert PerceptronLoss(sl.Categorical(3))(x, target=torch.tensor([2], dtype=dtype)) == 0.5


@each_case
def test_derivatives_beside_forbidden_parts(structure, name, generator):
    masked = forbid(structure, draw(structure, generator, 3), generator)
    y = targets(structure, generator, 3, masked)
    finite = [torch.isfinite(x) for x in masked]
    variables = [torch.where(f, x, 0).requires_grad_() for f, x in zip(finite, masked, strict=True)]
    loss = MAKERS[name](structure)

    def fn(*variables):
        return loss(*(torch.where(f, x, -torch.inf) for f, x in zip(finite, variables, strict=True)), target=y)

    assert gradcheck(fn, variables)
    assert gradgradcheck(fn, variables)
    inputs = [x.clone().requires_grad_() for x in masked]
    slopes = torch.autograd.grad(loss(*inputs, target=y).sum(), inputs)
    for f, slope in zip(finite, slopes, strict=True):
        assert (slope[~f] == 0).all()


@pytest.mark.parametrize("name", [name for s, name in CASES if s is SPACES[4] and "perturbed" not in name])
def test_a_padded_batch_gives_what_each_example_gives_alone(name, generator):
    padded = sl.LinearChain(5, 3)
    unary, transition = draw(padded, generator, 3)
    lengths = torch.tensor([5, 1, 3])
    y = targets(padded, generator, 3)
    y = torch.where(torch.arange(5) < lengths[:, None], y, 0)
    together = MAKERS[name](padded)(*padded.mask(unary, transition, lengths), target=y)
    if "sparsemap" in name:  # mu of the padding is that of the target: 1, and regularised in both
        assert torch.isfinite(together).all()
    for row, n in enumerate(lengths.tolist()):
        chain = sl.LinearChain(n, 3)
        alone = MAKERS[name](chain)(unary[row, :n], transition[row, : n - 1], target=y[row, :n])
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-9)


# Errors.


@each_of_a_few
def test_targets_that_are_none_are_named(structure, name, generator):
    inputs = [x.reshape(2, 2, *x.shape[1:]) for x in draw(structure, generator, 4)]
    y = targets(structure, generator, 4).reshape(2, 2, *structure.event_shape)
    wrong = y.clone()
    wrong[1, 0] = 7
    with pytest.raises(sl.ArgumentError, match=r"target: is no structure of .* in row \(1, 0\) \(1 of 4\)"):
        MAKERS[name](structure)(*inputs, target=wrong)
    used = (structure.vertex(y) > 0).reshape(2, 2, -1)
    if not used[0, 1].any():  # nothing on, nothing to forbid
        y = y.flip(1)
        inputs = [x.flip(1) for x in inputs]
        used = used.flip(1)
    inputs[0] = inputs[0].clone()
    inputs[0][0, 1] = torch.where(structure.vertex(y[0, 1]) > 0, -torch.inf, inputs[0][0, 1])
    with pytest.raises(sl.ArgumentError, match=r"target: uses what is forbidden in row \(0, 1\) \(1 of 4\)"):
        MAKERS[name](structure)(*inputs, target=y)


@pytest.mark.parametrize("make", [PerceptronLoss, HingeLoss, SparseMAPLoss, PerturbedLoss])
def test_what_does_not_fit_is_said(make):
    chain, x, t = sl.LinearChain(3, 2), torch.zeros(4, 3, 2), torch.zeros(2, 2)
    y = torch.zeros(4, 3, dtype=torch.int64)
    loss = make(chain)
    for target, text in (
        (y[:3], r"target: got shape \(3, 3\); LinearChain expects .* \(4, 3\)"),
        (y[:, :2], r"target: got shape \(4, 2\)"),
        (y.tolist(), "target: got list"),
        (y.double(), "target: got dtype torch.float64; LinearChain expects whole numbers"),
        (y.bool(), "target: got dtype torch.bool"),
    ):
        with pytest.raises(sl.ArgumentError, match=text):
            loss(x, t, target=target)
    with pytest.raises(sl.ArgumentError, match="extra: got 0 tensors"):
        loss(x, target=y)
    with pytest.raises(sl.ArgumentError, match="scores: NaN"):
        loss(x.clone().fill_(torch.nan), t, target=y)
    with pytest.raises(sl.ArgumentError, match=r"target: got dtype torch\.complex64; BitVector expects 0 and 1"):
        make(sl.BitVector(2))(torch.zeros(2), target=torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(sl.ArgumentError, match="structure: got LinearChain as a class"):
        make(sl.LinearChain)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: HingeLoss(sl.BitVector(2), margin=-1.0), r"margin: got -1\.0; expected"),
        (lambda: HingeLoss(sl.BitVector(2), margin=math.inf), "margin: got inf"),
        (lambda: SparseMAPLoss(sl.BitVector(2), solver="newton"), "solver: got 'newton'"),
        (lambda: SparseMAPLoss(sl.BitVector(2), max_iter=0), "max_iter: got 0"),
        (lambda: PerturbedLoss(sl.BitVector(2), samples=0), "samples: got 0"),
        (lambda: PerturbedLoss(sl.BitVector(2), scale=0.0), r"scale: got 0\.0"),
        (lambda: PerturbedLoss(sl.BitVector(2), noise="uniform"), "noise: got 'uniform'"),
        (
            lambda: SparseMAPLoss(sl.BitVector(2), gamma=-1.0)(torch.zeros(2), target=torch.zeros(2)),
            r"gamma: got -1\.0",
        ),
    ],
)
def test_settings_are_checked(make, text):
    with pytest.raises(sl.ArgumentError, match=text):
        make()


def test_no_log_partition_no_crf_loss():
    matching = sl.BipartiteMatching(3, 3)
    with pytest.raises(NotImplementedError, match=r"log_partition: BipartiteMatching.*has none.*perturb_and_map"):
        CRFLoss(matching)(torch.zeros(2, 3, 3), target=torch.tensor([[0, 1, 2], [2, 1, 0]]))


def test_an_unchecked_target_costs_no_call(generator):
    calls = []

    def fn(s):
        calls.append(1)
        return best_interval(s)

    x, y = torch.randn(3, 4, generator=generator), torch.tensor([[1, 1, 0, 0]] * 3)
    values = []
    for check, count in ((False, 3), (True, 6)):
        calls.clear()
        values.append(PerceptronLoss(sl.Structure.from_argmax(fn, 4), check_target=check)(x, target=y))
        assert len(calls) == count
    assert torch.equal(*values)


def test_a_solver_that_does_not_converge_is_reported(generator):
    x = draw(sl.BitVector(6), generator, 2)[0]
    loss = SparseMAPLoss(sl.BitVector(6), solver="active_set", max_iter=1)
    with pytest.warns(sl.NonConvergenceWarning):
        loss(x, target=torch.zeros(2, 6))
    with pytest.raises(sl.NonConvergenceWarning):
        SparseMAPLoss(sl.BitVector(6), solver="active_set", max_iter=1, on_failure="raise")(x, target=torch.zeros(2, 6))


# As modules, and under transforms.


def test_settings_are_shown():
    bits = sl.BitVector(2)
    for loss, text in (
        (PerceptronLoss(bits), "PerceptronLoss(BitVector(2, symmetric=True))"),
        (HingeLoss(bits, margin=0.5), "HingeLoss(BitVector(2, symmetric=True), margin=0.5)"),
        (CRFLoss(bits, check_target=False), "CRFLoss(BitVector(2, symmetric=True), check_target=False)"),
        (
            PerturbedLoss(bits, samples=3),
            "PerturbedLoss(BitVector(2, symmetric=True), scale=1.0, samples=3, noise='normal')",
        ),
    ):
        assert repr(loss) == text
    assert repr(SparseMAPLoss(bits, gamma=0.5, tol=1e-6)).endswith("validate=False, gamma=0.5)")
    assert "tol=1e-06" in repr(SparseMAPLoss(bits, gamma=0.5, tol=1e-6))
    learned = SparseMAPLoss(bits, gamma=torch.nn.Parameter(torch.tensor(2.0)))
    assert repr(learned).endswith("gamma=2.0 (learned))")


def test_gamma_is_learned():
    gamma = torch.nn.Parameter(torch.tensor(0.8))
    loss = SparseMAPLoss(sl.BitVector(3), gamma=gamma)
    assert list(loss.parameters()) == [gamma]
    loss(torch.tensor([[0.2, -0.1, 3.0]]), target=torch.zeros(1, 3)).sum().backward()
    assert float(gamma.grad.abs()) > 0
    assert "gamma" in SparseMAPLoss(sl.BitVector(3), gamma=torch.tensor(2.0)).state_dict()


@each_of_a_few
def test_copies_give_the_same(structure, name, generator):
    inputs, y = draw(structure, generator, 2), targets(structure, generator, 2)
    loss = MAKERS[name](structure)
    want = loss(*inputs, target=y)
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(again(*inputs, target=y), want, rtol=0, atol=0)


def test_two_backward_calls_and_an_optimizer_between(generator):
    chain = sl.LinearChain(3, 2)
    inputs = [x.requires_grad_() for x in draw(chain, generator, 2)]
    value = SparseMAPLoss(chain)(*inputs, target=targets(chain, generator, 2)).sum()
    want = torch.autograd.grad(value, inputs, retain_graph=True)
    with torch.no_grad():
        for x in inputs:
            x.mul_(-3)
    for got in (torch.autograd.grad(value, inputs, retain_graph=True), torch.autograd.grad(value, inputs)):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


TRANSFORMED = [case for case in FEW if case[1] != "perturbed"]


@pytest.mark.parametrize(("structure", "name"), TRANSFORMED, ids=str)
def test_transforms(structure, name, generator):
    inputs, y = draw(structure, generator, 3), targets(structure, generator, 3)
    loss = MAKERS[name](structure)
    leaves = [x.clone().requires_grad_() for x in inputs]
    want = torch.autograd.grad(loss(*leaves, target=y).sum(), leaves)
    every = tuple(range(len(inputs)))

    def fn(y, *x):
        return loss(*x, target=y)

    def close(got, want):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)

    close(grad(lambda *x: fn(y, *x).sum(), argnums=every)(*inputs), want)
    close(vmap(fn)(y, *inputs), fn(y, *inputs))
    close(vmap(grad(fn, argnums=tuple(i + 1 for i in every)))(y, *inputs), want)
    tangents = [torch.cos(x) for x in inputs]
    along = sum((g * t).flatten(1).sum(-1) for g, t in zip(want, tangents, strict=True))
    close(jvp(lambda *x: fn(y, *x), tuple(inputs), tuple(tangents))[1], along)
    with forward_ad.dual_level():
        dual = fn(y, *(forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)))
        close(forward_ad.unpack_dual(dual).tangent, along)


@pytest.mark.parametrize(("structure", "name"), TRANSFORMED, ids=str)
def test_errors_under_vmap_name_the_rows(structure, name, generator):
    inputs, y = draw(structure, generator, 3), targets(structure, generator, 3)
    y[2] = 7
    loss = MAKERS[name](structure)
    with pytest.raises(sl.ArgumentError, match=r"target: is no structure of .* in row 2 \(1 of 3\)"):
        vmap(lambda y, *x: loss(*x, target=y))(y, *inputs)


@pytest.mark.parametrize(
    ("structure", "name"),
    [
        (sl.LinearChain(3, 2), "sparsemap"),
        (sl.LinearChain(3, 2), "hinge"),
        (sl.BitVector(3), "sparsemap"),
        (Pairs(), "crf"),
    ],
    ids=str,
)
def test_compile(structure, name, generator):
    torch._dynamo.reset()
    inputs = [x.requires_grad_() for x in draw(structure, generator, 3)]
    y = targets(structure, generator, 3)
    loss = MAKERS[name](structure)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    want, got = loss(*inputs, target=y), compiled(*inputs, target=y)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    for one, other in zip(torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(want.sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)
