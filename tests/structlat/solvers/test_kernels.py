"""The kernels by themselves: packed vertices, sums that lose nothing, the factor, and one compilation each."""

from fractions import Fraction

import numpy as np
import pytest
import torch

import structlat as sl
from structlat.solvers import active_set as module
from structlat.solvers import kernels
from structlat.solvers.kernels import bits, copies, face, rows, steps
from structlat.solvers.supports import Supports
from tests.judge import draw


def packed(v):
    words = np.empty(-(-len(v) // 64), np.uint64)
    return words, bits.pack(v, words)


@pytest.mark.parametrize("parts", [1, 63, 64, 65, 128, 200])
def test_packed_vertices(parts):
    rng = np.random.default_rng(parts)
    for share in (0.0, 0.3, 1.0):
        v, w = (rng.random((2, parts)) < share).astype(float)
        a, fine = packed(v)
        assert fine
        b, _ = packed(w)
        assert bits.common(a, b) == v @ w
        again = np.empty(parts)
        bits.unpack(a, again)
        np.testing.assert_array_equal(again, v)
        x = np.zeros(64 * len(a))
        x[:parts] = rng.normal(size=parts)
        assert bits.sum_at(x, a) == pytest.approx(x[:parts] @ v, abs=1e-12)
    for strange in (0.5, -1.0, 2.0, np.nan):
        v[parts // 2] = strange
        assert not packed(v)[1]


def test_sums_keep_their_rounding_errors():
    rng = np.random.default_rng(0)
    v = (rng.random(130) < 0.5).astype(float)
    words, _ = packed(v)
    x, rest = np.zeros(192), np.zeros(192)
    x[:130] = rng.normal(size=130) * 10.0 ** rng.integers(-12, 1, 130)
    rest[:130] = 1e-14 * rng.normal(size=130)
    high = np.array([bits.on_grid(a) for a in x])
    assert np.abs(x - high).max() <= 2.0**-41
    high, low = bits.difference(3.7, bits.sum_at(high, words))
    low -= bits.sum_at(x - np.array([bits.on_grid(a) for a in x]) + rest, words)
    want = Fraction(3.7) - sum(
        (Fraction(a) + Fraction(b) for a, b, on in zip(x, rest, v, strict=False) if on), Fraction()
    )
    assert abs(Fraction(high) + Fraction(low) - want) < Fraction(1, 10**25)


def rounds(structure, inputs, count):
    """Supports after so many rounds, with the factor that the updates have left."""
    first = structure.argmax(*inputs)
    ones = torch.ones(len(first), 1, dtype=torch.float64)
    supports = Supports(structure, inputs[0], tuple(inputs[1:]), first.unsqueeze(1), ones, validate=False)
    at = np.empty((len(first), supports.parts))
    kernels.ask_all(supports.state, supports.lanes, supports.scores, at)
    while count and len(supports.lanes):
        count -= 1
        supports.make_room()
        at, _, status = module._advance(supports, supports.describe(supports.ask(at).unsqueeze(1)), 1e-9)
        (at,) = supports.retain(status == kernels.CONTINUES, at)
    return supports


def test_the_factor_is_that_of_the_support(generator):
    """Whatever was appended, rotated out and exchanged: L L' = A A' + 1 1' and L y = 1."""
    for structure, scale in (
        (sl.LinearChain(12, 4), 0.1),
        (sl.BipartiteMatching(6, 6), 1.0),
        (sl.BudgetBitVector(24, 8, exact=True, symmetric=False), 1.0),
        (sl.BitVector(48, symmetric=False), 0.7),
    ):
        inputs = draw(structure, generator, 12, scale)
        for count in (3, 10, 40):
            supports = rounds(structure, inputs, count)
            s = supports.state
            for b in range(len(s.row)):
                n = int(s.size[b])
                a = np.empty((n, supports.parts))
                for i in range(n):
                    bits.unpack(s.words[b, s.slot[b, i]], a[i])
                lower = np.zeros((n, n))
                lower[np.tril_indices(n)] = s.factor[b, : n * (n + 1) // 2]
                lower[np.diag_indices(n)] = 1 / lower[np.diag_indices(n)]
                np.testing.assert_allclose(lower @ lower.T, a @ a.T + 1, atol=1e-9)
                np.testing.assert_allclose(lower @ s.y[b, 0, :n], np.ones(n), atol=1e-9)
                assert sorted(s.slot[b]) == list(range(s.slot.shape[1]))


def test_memory_is_for_those_that_work(generator):
    """Rows that are done leave nothing but their structures behind when the others grow."""
    x = torch.full((100, 200), 9.0, dtype=torch.float64)
    x[0] = torch.rand(200, generator=generator, dtype=torch.float64)
    structure = sl.BitVector(200, symmetric=False)
    supports = rounds(structure, [x], 60)
    assert len(supports.lanes) == 1
    assert len(supports.state.row) <= 2
    assert sum(s.factor.size for s in supports._done) == 0
    z, p, mask = supports.members()
    assert z.shape[:2] == p.shape == mask.shape
    assert (z[1:, :1] == 1).all()


def test_one_compilation_a_kernel(generator):
    """Whatever comes in, and however it lies in memory."""
    for structure in (sl.BitVector(5), sl.LinearChain(4, 3), sl.BipartiteMatching(3, 3)):
        for batch in (1, 4):
            inputs = [x.requires_grad_() for x in draw(structure, generator, batch)]
            for chosen in (inputs, [x.transpose(0, -1).contiguous().transpose(0, -1) for x in inputs]):
                post = sl.sparsemap(structure, *chosen, solver="active_set")
                assert post.mean.requires_grad
    called = (steps.load, steps.advance, steps.finish, steps.ask_all, copies.move, copies.extract)
    for kernel in (*called, face.probe, face.widen, rows.solve_rows, rows.list_rows):
        assert len(kernel.signatures) == 1, kernel
