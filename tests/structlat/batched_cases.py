"""What the tests of the batched solvers share: problems, the mean of a solution, and an oracle that is torch alone."""

import torch

import structlat as sl
from structlat.solvers.batched import solve
from tests.judge import draw, forbid

KINDS = ("normal", "integer", "equal", "base")
SPACES = (
    sl.BitVector(5, symmetric=False),
    sl.BudgetBitVector(6, 3, symmetric=False),
    sl.BudgetBitVector(6, 2, exact=True, symmetric=False),
    sl.Categorical(5),
    sl.LinearChain(4, 3),
    sl.BipartiteMatching(3, 4),
    sl.BipartiteMatching(3, 3, partial=True),
)
LARGE = (
    (sl.BitVector(64, symmetric=False), 1.0),
    (sl.LinearChain(20, 5), 0.1),
    (sl.BipartiteMatching(10, 10), 1.0),
    (sl.BudgetBitVector(24, 8, exact=True, symmetric=False), 0.3),
)


class TorchSubsets(sl.Structure):
    """k of n, with an oracle that stays on the device; bits where k is None."""

    def __init__(self, n, k=None):
        self.shape = torch.Size([n])
        self.k = k

    def argmax(self, scores):
        if self.k is None:
            return (scores > 0).to(scores.dtype)
        return torch.zeros_like(scores).scatter(1, scores.topk(self.k).indices, 1.0)


def run(structure, inputs, method, **options):
    settings = {"tol": 1e-9, "max_iter": None, "validate": True, "keep_trace": False, **options}
    return solve(structure, inputs[0], tuple(inputs[1:]), structure.argmax(*inputs), method=method, **settings)


def mean(structure, solution):
    a = structure.vertex(solution.z).double()
    return (solution.p.reshape(solution.p.shape + (1,) * len(structure.shape)) * a).sum(1)


def certificate(structure, inputs, solution):
    """The duality gap over every structure, [B], computed from z and p alone."""
    gradient = inputs[0] - mean(structure, solution)
    extra = [x.unsqueeze(1) for x in inputs[1:]]
    every = structure.enumerate()
    best = structure.score(every, gradient.unsqueeze(1), *extra).amax(1)
    own = structure.score(solution.z, gradient.unsqueeze(1), *extra)
    return best - torch.where(solution.p > 0, solution.p * own, 0).sum(1)


def check_solution(structure, solution):
    """A distribution on an affinely independent support, padded as promised."""
    z, p = solution.z, solution.p
    assert p.dtype == torch.float64
    assert z.shape == (*p.shape, *structure.event_shape)
    assert p.shape[1] == max(int((p > 0).sum(1).max()), 1)
    assert (p >= 0).all()
    assert (p.sum(1) - 1).abs().max() < 1e-12
    for row in range(len(p)):
        inside = p[row] > 0
        assert (z[row][~inside] == z[row, 0]).all()
        a = structure.vertex(z[row][inside]).double().reshape(int(inside.sum()), -1)
        assert torch.linalg.matrix_rank(torch.cat([a, torch.ones(len(a), 1)], 1)) == len(a)


def small_problems(structure, generator, scales):
    """Each kind of scores at each scale, as they are and with forbidden parts."""
    for kind in KINDS:
        for scale in scales:
            inputs = draw(structure, generator, 4, scale, kind)
            yield (kind, scale), inputs
            yield (kind, scale, "masked"), forbid(structure, inputs, generator)


def check_invariants(state, last):
    """After any step: p >= 0, its sum, the mean, and an objective that is not below ``last``; returns the objective."""
    assert (state.p >= 0).all()
    assert (state.p.sum(1) - 1).abs().max() < 1e-12
    assert (torch.einsum("bc,bcd->bd", state.p, state.v) - state.mean).abs().max() < 1e-12
    objective = (state.p * state.t).sum(1) - state.mean.square().sum(1) / 2
    rounding = 1e-13 * (1 + (state.p * state.used).sum(1) + state.mean.square().sum(1))
    assert (objective >= last - rounding).all()
    return objective
