"""Whole rows without Python: the same answers as round by round, whatever the batch and the threads."""

import numpy as np
import pytest
import torch

import structlat as sl
from oracles import _threads
from structlat.solvers import active_set as module
from structlat.solvers import face as face_module
from structlat.solvers.compiled import oracle_of
from tests.judge import draw, enumerated_sparsemap, forbid

SMALL = (
    sl.Categorical(7),
    sl.BitVector(6),
    sl.BitVector(5, symmetric=False),
    sl.BudgetBitVector(7, 3),
    sl.BudgetBitVector(7, 3, exact=True, symmetric=False),
    sl.LinearChain(4, 3),
    sl.LinearChain(3, 5),
    sl.LinearChain(1, 4),
)
LARGE = (
    sl.Categorical(150),
    sl.BitVector(100),
    sl.BudgetBitVector(70, 30),
    sl.BudgetBitVector(70, 20, exact=True),
    sl.LinearChain(20, 5),
    sl.LinearChain(12, 9),
)


@pytest.fixture
def by_rounds(monkeypatch):
    """Turns the compiled loop off."""

    def turn_off():
        for place in (module, face_module):
            monkeypatch.setattr(place, "oracle_of", lambda structure: None)

    return turn_off


def solve(structure, inputs, **settings):
    return sl.sparsemap(structure, *inputs, solver="active_set", on_failure="raise", **settings)


@pytest.mark.parametrize("structure", SMALL, ids=repr)
def test_against_the_enumerated_program(structure, generator):
    assert oracle_of(structure) is not None
    for kind in ("normal", "integer", "equal"):
        for scale in (1e-2, 1.0, 10.0):
            inputs = forbid(structure, draw(structure, generator, 5, scale, kind), generator)
            want = enumerated_sparsemap(structure, inputs[0], inputs[1:])
            assert (solve(structure, inputs).mean - want).abs().max() < 1e-7


@pytest.mark.parametrize("structure", SMALL + LARGE, ids=repr)
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 1e4])
def test_as_round_by_round(structure, scale, generator, by_rounds):
    if structure.extra_shapes and scale < 0.1:
        scale = 0.03  # below, many thousand rounds: the nightly chains have them
    inputs = draw(structure, generator, 12, scale)
    inputs[0].requires_grad_()
    ours = solve(structure, inputs)
    mean, (slope,) = ours.mean, torch.autograd.grad(ours.mean.square().sum(), inputs[0])
    by_rounds()
    theirs = solve(structure, inputs)
    torch.testing.assert_close(mean, theirs.mean, atol=1e-9, rtol=0)
    torch.testing.assert_close(
        slope, torch.autograd.grad(theirs.mean.square().sum(), inputs[0])[0], atol=1e-6, rtol=1e-6
    )
    assert (ours.info.iterations - theirs.info.iterations).abs().max() <= 3
    assert (ours.info.oracle_calls == ours.info.iterations + 1).all()
    bound = 1e-9 * max(scale, 1.0)
    assert ((ours.info.gap - theirs.info.gap).abs() <= bound).all()


@pytest.mark.parametrize("structure", LARGE, ids=repr)
def test_neither_the_batch_nor_the_threads_matter(structure, generator, monkeypatch):
    inputs = draw(structure, generator, 40)
    inputs[0].requires_grad_()
    whole = solve(structure, inputs)
    monkeypatch.setattr(_threads, "PIECE", 1)
    monkeypatch.setattr(_threads, "_allowed", lambda: 3)
    spread = solve(structure, inputs)
    for name in ("probs", "structures", "mean"):
        assert torch.equal(getattr(whole, name), getattr(spread, name))
    for row in (0, 7, 39):
        alone = solve(structure, [x[row : row + 1] for x in inputs])
        size = int(alone.support_size)
        assert torch.equal(alone.structures[0, :size], whole.structures[row, :size])
        assert torch.equal(alone.probs[0, :size], whole.probs[row, :size])
        assert torch.equal(alone.info.gap[0], whole.info.gap[row])


def test_shared_extra_scores_are_one_row(generator):
    chain = sl.LinearChain(9, 4)
    unary, transition = draw(chain, generator, 6)
    shared = solve(chain, [unary, transition[0]])
    own = solve(chain, [unary, transition[:1].repeat(6, 1, 1, 1)])
    assert torch.equal(shared.mean, own.mean)


def test_warm_start_and_limits(generator):
    chain = sl.LinearChain(15, 4)
    inputs = draw(chain, generator, 8)
    cold = solve(chain, inputs)
    warm = solve(chain, inputs, init=cold)
    assert warm.info.iterations.max() <= 2
    torch.testing.assert_close(warm.mean, cold.mean, atol=1e-9, rtol=0)
    short = sl.sparsemap(chain, *inputs, max_iter=3, on_failure="ignore")
    assert (short.info.iterations <= 3).all()
    assert not short.info.converged.all()
    torch.testing.assert_close(short.probs.sum(-1), torch.ones(8, dtype=torch.float64))


def test_more_structures_than_a_lane_has_room_for(generator):
    """A support of 300: the lane grows four times."""
    bits = sl.BitVector(300)
    x = torch.rand(3, 300, generator=generator, dtype=torch.float64) - 0.5
    post = solve(bits, [x.requires_grad_()])
    torch.testing.assert_close(post.mean, (x + 1) / 2, atol=1e-7, rtol=0)
    (slope,) = torch.autograd.grad(post.mean.sum(), x)
    torch.testing.assert_close(slope, torch.full_like(x, 0.5), atol=1e-6, rtol=0)


def test_another_oracle_is_asked_itself():
    asked = []

    class Counting(sl.BitVector):
        """Bits that say when they are asked."""

        def argmax(self, scores, *extra):
            asked.append(len(scores))
            return super().argmax(scores, *extra)

    assert oracle_of(sl.BitVector(3)) is not None
    assert oracle_of(Counting(3)) is None
    x = torch.linspace(-1, 1, 3, dtype=torch.float64)
    assert torch.equal(solve(Counting(3), [x]).mean, solve(sl.BitVector(3), [x]).mean)
    assert len(asked) > 1
    patched = sl.BitVector(3)
    patched.argmax = lambda scores: (scores > 0).double()
    assert oracle_of(patched) is None


def test_a_trace_is_kept_round_by_round(generator):
    chain = sl.LinearChain(6, 3)
    inputs = draw(chain, generator, 4)
    post, plain = solve(chain, inputs, trace=True), solve(chain, inputs)
    torch.testing.assert_close(post.mean, plain.mean, atol=1e-12, rtol=0)
    assert torch.equal(post.info.iterations, plain.info.iterations)
    assert np.isnan(post.info.trace.gap.numpy()).sum() == (len(post.info.trace.gap) - post.info.iterations).sum()
