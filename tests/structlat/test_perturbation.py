import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, norm

import structlat as sl
from structlat.perturbation import perturb_and_map
from tests.judge import draw, forbid

COUNT = 4000


def best_pair(s):
    """Two neighbours among four, cyclically: a user's own space, as numpy knows it."""
    pairs = np.eye(4) + np.roll(np.eye(4), 1, axis=1)
    return pairs[(pairs @ s).argmax()]


SPACES = (
    sl.Categorical(4),
    sl.BitVector(3),
    sl.BudgetBitVector(4, 2),
    sl.LinearChain(3, 2),
    sl.BipartiteMatching(3, 3),
    sl.BipartiteMatching(2, 3, partial=True),
    sl.Structure.from_argmax(best_pair, 4),
)


def softmax_over_every_structure(structure, scores, scale):
    every = structure.enumerate()
    zeros = [torch.zeros(1, *s, dtype=torch.float64) for s in structure.extra_shapes]
    s = torch.stack([structure.score(z[None], scores[None], *zeros)[0] for z in every])
    return every, torch.softmax(s / scale, 0)


def assert_drawn_from(z, every, p):
    """Chi-square of drawn structures z [N, *event] against probabilities of every structure."""
    same = (z.unsqueeze(1) == every.to(z.dtype)).reshape(len(z), len(every), -1).all(-1)
    counts = same.sum(0)
    assert counts.sum() == len(z)
    assert (counts[p == 0] == 0).all()
    assert chisquare(counts[p > 0].numpy(), len(z) * p[p > 0].numpy()).pvalue > 1e-4


@pytest.mark.parametrize(
    "structure",
    [
        sl.Categorical(5),
        sl.BitVector(3),
        sl.BitVector(3, symmetric=False),
        sl.LinearChain(2, 3),
        sl.BudgetBitVector(4, 1, exact=True),
        sl.BipartiteMatching(1, 1, partial=True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_samples_from_softmax_where_choices_are_independent(structure, masked, scale, generator):
    inputs = draw(structure, generator, 3)
    inputs[1:] = [torch.zeros_like(x) for x in inputs[1:]]  # no transitions: each position for itself
    if masked:
        inputs = forbid(structure, inputs, generator)
    z = perturb_and_map(structure, *inputs, shape=(COUNT,), scale=scale, generator=generator)
    for row in range(3):
        assert_drawn_from(z[:, row], *softmax_over_every_structure(structure, inputs[0][row], scale))


def test_transitions_are_used_as_they_are(generator):
    """The same sequence of labels again and again is all that the transitions leave; which one is a fair draw."""
    chain = sl.LinearChain(4, 3)
    unary = torch.zeros(4, 3, dtype=torch.float64)
    transition = torch.full((3, 3), -torch.inf, dtype=torch.float64).fill_diagonal_(0)
    z = perturb_and_map(chain, unary, transition, shape=(COUNT,), generator=generator)
    assert (z == z[:, :1]).all()
    assert chisquare(torch.bincount(z[:, 0], minlength=3).numpy()).pvalue > 1e-4


def test_normal_noise(generator):
    """One of two: the difference of two normal numbers decides."""
    x, scale = torch.tensor([0.3, -0.4], dtype=torch.float64), 0.8
    z = perturb_and_map(sl.Categorical(2), x, shape=(COUNT,), scale=scale, noise="normal", generator=generator)
    p = norm.cdf(0.7 / (scale * math.sqrt(2)))
    assert_drawn_from(z, torch.arange(2), torch.tensor([p, 1 - p], dtype=torch.float64))


@pytest.mark.parametrize("structure", SPACES, ids=repr)
@pytest.mark.parametrize("noise", ["gumbel", "normal"])
def test_structures_of_the_space_that_use_nothing_forbidden(structure, noise, generator):
    for x in (draw(structure, generator, 3), forbid(structure, draw(structure, generator, 3), generator)):
        z = perturb_and_map(structure, *x, shape=(50,), noise=noise, generator=generator)
        assert structure.contains(z).all()
        assert torch.isfinite(structure.score(z, *x)).all()
        assert len(torch.unique(z[:, 0], dim=0)) > 1
        # without noise there is one best structure
        best = perturb_and_map(structure, *x, shape=(5,), scale=1e-9, noise=noise, generator=generator)
        assert (best == sl.argmax(structure, *x)).all()


@pytest.mark.parametrize("structure", SPACES, ids=repr)
@pytest.mark.parametrize("batch", [(), (3,), (2, 1, 3), (0,)])
@pytest.mark.parametrize("shape", [(), (5,), (2, 4), (0,)])
def test_shapes(structure, batch, shape, generator):
    inputs = [torch.randn(*batch, *s, generator=generator) for s in (structure.shape, *structure.extra_shapes)]
    z = perturb_and_map(structure, *inputs, shape=shape, generator=generator)
    assert z.shape == (*shape, *batch, *structure.event_shape)
    assert z.dtype == (structure.event_dtype or torch.float32)


@pytest.mark.parametrize("noise", ["gumbel", "normal"])
def test_the_generator_alone_is_drawn_from(noise):
    structure, x = sl.BitVector(6), torch.zeros(2, 6)
    before = torch.get_rng_state()

    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        return perturb_and_map(structure, x, shape=(8,), noise=noise, generator=generator)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(before, torch.get_rng_state())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert torch.equal(perturb_and_map(structure, x, shape=(8,), noise=noise), drawn(1))


def test_rows_are_drawn_independently(generator):
    """Equal rows and equal samples come out different, and as often alike as independent ones."""
    z = perturb_and_map(sl.Categorical(2), torch.zeros(2, 2), shape=(COUNT, 2), generator=generator)
    for one, other in ((z[:, 0, 0], z[:, 0, 1]), (z[:, 0, 0], z[:, 1, 0])):
        assert abs(float((one == other).double().mean()) - 0.5) < 4 * 0.5 / COUNT**0.5


def test_rows_keep_their_own_extra_scores(generator):
    chain = sl.LinearChain(2, 3)
    transition = torch.full((4, 1, 3, 3), -torch.inf)
    for row in range(4):
        transition[row, 0, row % 3, (row + 1) % 3] = 0
    z = perturb_and_map(chain, torch.zeros(4, 2, 3), transition, shape=(6,), generator=generator)
    first = torch.arange(4) % 3
    assert (z == torch.stack([first, (first + 1) % 3], -1)).all()


def test_one_call_of_the_oracle(generator):
    calls = []

    def fn(scores: torch.Tensor):
        calls.append(len(scores))
        return (scores > 0).double()

    structure = sl.Structure.from_argmax(fn, 4, batched=True)
    perturb_and_map(structure, torch.zeros(3, 4), shape=(7,), generator=generator)
    assert calls == [21]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype, generator):
    x = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    z = perturb_and_map(sl.BitVector(3), x, generator=generator)
    assert z.dtype == dtype
    assert not z.requires_grad
    assert perturb_and_map(sl.Categorical(3), x, generator=generator).dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scale": 0.0}, r"scale: got 0\.0; expected a positive"),
        ({"scale": -1}, "scale: got -1; expected"),
        ({"scale": math.inf}, "scale: got inf; expected"),
        ({"scale": "wide"}, "scale: got 'wide'; expected"),
        ({"noise": "uniform"}, "noise: got 'uniform'; expected one of 'gumbel', 'normal'"),
    ],
)
def test_errors(options, text):
    with pytest.raises(sl.ArgumentError, match=text):
        perturb_and_map(sl.BitVector(3), torch.zeros(3), **options)


def test_infeasible_rows_are_named_as_the_caller_knows_them():
    x = torch.zeros(2, 2, 4)
    x[1, 0] = -torch.inf
    with pytest.raises(sl.InfeasibleError, match=r"row \(1, 0\) \(1 of 4\)"):
        perturb_and_map(sl.Categorical(4), x, shape=(3,))
    with pytest.raises(sl.ArgumentError, match="scores: got shape"):
        perturb_and_map(sl.Categorical(4), x[..., :3])
