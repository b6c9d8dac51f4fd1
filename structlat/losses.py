r"""Fenchel-Young losses: how far scores are from preferring a given structure, the target.

Each is a maximum over structures, or over distributions p of structures with marginals mu, less the same for the
target y alone: max_p <scores, mu> - Omega(p) - (score(y) - Omega(y)). It is never negative, convex in the scores, and
its gradient in them is mu - a_y, in the extra scores the use of extra parts less the target's (Blondel, Martins and
Niculae 2020, *Learning with Fenchel-Young Losses*).

| loss | Omega | needs |
|---|---|---|
| :class:`PerceptronLoss` | none | ``argmax`` |
| :class:`HingeLoss` | none; a structure's score grows by its distance from the target | ``argmax`` |
| :class:`SparseMAPLoss` | that of SparseMAP, gamma/2 \|mu\|^2 | ``argmax`` |
| :class:`PerturbedLoss` | what noise on the scores makes of it | ``argmax`` |
| :class:`CRFLoss` | negative entropy of p | ``log_partition`` |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from structlat import opaque
from structlat.distribution import SparseDistribution
from structlat.errors import ArgumentError, check_count
from structlat.normalizers import check_options, sparsemap
from structlat.operators import guard, operator, traced
from structlat.perturbation import check_noise, perturbed
from structlat.problem import Problem, make_gamma, make_problem
from structlat.structure import Structure, structure_of


class _Loss(nn.Module):
    """``loss(scores, *extra, target=z) -> [*batch]``: checks, dtypes and batch shape, around one formula each."""

    def __init__(self, structure: Structure, check_target: bool, **settings: Any) -> None:
        super().__init__()
        if not isinstance(structure, Structure):
            raise ArgumentError(f"structure: got {_named(structure)}; expected an instance of structlat.Structure")
        self.structure = structure
        self.check_target = check_target
        self.settings = settings

    def forward(self, scores: Tensor, *extra: Tensor, target: Tensor) -> Tensor:
        """Losses [*batch], not reduced, in the scores' dtype and at least float32.

        Parameters
        ----------
        scores : Tensor [*batch, *shape]
            -inf forbids a part.
        extra : Tensors that broadcast to [*batch, *extra_shape]
        target : Tensor [*batch, *event_shape]
            The right structures: of an integer dtype where the space has labels, any where it has 0 and 1.

        Raises
        ------
        ArgumentError
            Bad scores; a target of wrong shape or dtype, that is no structure of the space or uses a forbidden part.
        """
        problem = make_problem(self.structure, scores, extra)
        y = _checked_target(problem, target, self.check_target)
        value = self._loss(problem, y)
        # what is below 0 is rounding, and keeps its derivative
        value = value + (value.detach().clamp(min=0) - value.detach())
        return problem.unflatten(value).to(problem.probs_dtype)

    def _loss(self, problem: Problem, y: Tensor) -> Tensor:
        """Losses [B] in float64 for a flat batch and its targets [B, *event]."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The structure and the settings, as repr shows them."""
        settings = self.settings | ({} if self.check_target else {"check_target": False})
        return ", ".join([repr(self.structure), *(f"{name}={value!r}" for name, value in settings.items())])


class PerceptronLoss(_Loss):
    """Structured perceptron (Collins 2002): the highest score less that of the target.

    Parameters
    ----------
    structure : Structure
    check_target : bool
        Whether to check that targets are structures of the space, which for a space without a ``contains`` of its own
        costs a call of the oracle.
    """

    def __init__(self, structure: Structure, check_target: bool = True) -> None:
        super().__init__(structure, check_target)

    def _loss(self, problem: Problem, y: Tensor) -> Tensor:
        return _score(problem, _best(problem, problem.scores)) - _score(problem, y)


class HingeLoss(_Loss):
    r"""Structured hinge (Tsochantaridis et al. 2005): 0 where the target beats each z by margin \|a_z - a_y\|_1.

    max_z score(z) + margin \|a_z - a_y\|_1 - score(y). The distance counts parts, so that one wrong label counts twice:
    a part too many and one too few.

    Parameters
    ----------
    structure : Structure
    margin : float
        By how much for each part, at least 0.
    check_target : bool
        As in :class:`PerceptronLoss`.
    """

    def __init__(self, structure: Structure, margin: float = 1.0, check_target: bool = True) -> None:
        if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < float("inf"):
            raise ArgumentError(f"margin: got {margin!r}; expected a finite number of at least 0")
        super().__init__(structure, check_target, margin=margin)
        self.margin = margin

    def _loss(self, problem: Problem, y: Tensor) -> Tensor:
        target = _vertex(problem, y)
        # for 0/1 vectors |a_z - a_y| is a_y + (1 - 2 a_y) a_z, part by part: a constant, and scores
        z = _best(problem, problem.scores.detach() + self.margin * (1 - 2 * target))
        distance = (_vertex(problem, z) - target).abs().flatten(start_dim=1).sum(-1)
        return _score(problem, z) - _score(problem, y) + self.margin * distance


class CRFLoss(_Loss):
    """Conditional random field (Lafferty et al. 2001): -log p(target) under softmax over all structures, in nats.

    For spaces with a log-partition function; NotImplementedError, with what to use instead, for others.

    Parameters
    ----------
    structure : Structure
    check_target : bool
        As in :class:`PerceptronLoss`.
    """

    def __init__(self, structure: Structure, check_target: bool = True) -> None:
        super().__init__(structure, check_target)

    def _loss(self, problem: Problem, y: Tensor) -> Tensor:
        total = self.structure.log_partition(*problem.given())
        return total.reshape(len(problem.scores)) - _score(problem, y)


class PerturbedLoss(_Loss):
    """Perturbed Fenchel-Young loss (Berthet et al. 2020): E max_z score(z) under noise, less score(y).

    The expectation is estimated from ``samples`` draws, all in one call of the oracle. From each the noise at the
    target is subtracted: its mean is 0, so the expectation stays; the estimate is never negative, and varies less.
    Omega, the conjugate of the expectation, is 0 at the target for the same reason, so that nothing is missing from the
    value. Second derivatives are those of the estimate, which is piecewise linear: 0.

    Parameters
    ----------
    structure : Structure
    scale : float
        What the noise is multiplied by, above 0.
    samples : int
        Draws a row, at least 1.
    noise : {"normal", "gumbel"}
        As in :func:`structlat.perturbation.perturb_and_map`. With Gumbel noise of scale 1, a categorical and bits have
        the CRF loss as expectation.
    generator : torch.Generator, optional
        What to draw from. Default: torch's own.
    check_target : bool
        As in :class:`PerceptronLoss`.
    """

    def __init__(
        self,
        structure: Structure,
        scale: float = 1.0,
        samples: int = 10,
        noise: Literal["normal", "gumbel"] = "normal",
        generator: torch.Generator | None = None,
        check_target: bool = True,
    ) -> None:
        check_noise(scale, noise)
        samples = check_count("samples", samples)
        super().__init__(structure, check_target, scale=scale, samples=samples, noise=noise)
        self.scale, self.samples, self.noise, self.generator = scale, samples, noise, generator

    def _loss(self, problem: Problem, y: Tensor) -> Tensor:
        draws = perturbed(problem, self.samples, self.scale, self.noise, self.generator)
        inputs = (problem.scores + draws.noise, *problem.extra)
        return (self.structure.score(draws.z, *inputs) - self.structure.score(y, *inputs)).mean(0)


class SparseMAPLoss(_Loss):
    r"""SparseMAP loss (Niculae et al. 2018), whose prediction is :func:`structlat.sparsemap`.

    max_p <scores, mu> - gamma/2 \|mu\|^2 - (score(y) - gamma/2 \|a_y\|^2); where the structure is ``symmetric``, with
    gamma/2 (\|mu\|^2 + \|1 - mu\|^2), and the same of a_y. Exactly 0 where SparseMAP gives the target probability 1.

    Its first derivatives cost no more than the value; second ones complete the optimal face, as the means of
    :class:`structlat.SparseDistribution` do.

    Parameters
    ----------
    structure : Structure
    gamma : float or Tensor that broadcasts to [*batch]
        Strength of the regulariser, positive. An ``nn.Parameter`` is learned with the rest.
    solver, tol, max_iter, on_failure, validate
        As in :func:`structlat.sparsemap`.
    check_target : bool
        As in :class:`PerceptronLoss`.
    """

    def __init__(
        self,
        structure: Structure,
        gamma: float | Tensor = 1.0,
        solver: str = "auto",
        tol: float = 1e-9,
        max_iter: int | None = None,
        on_failure: Literal["warn", "raise", "ignore"] = "warn",
        validate: bool = False,
        check_target: bool = True,
    ) -> None:
        check_options(solver, tol, max_iter, on_failure)
        options = {"solver": solver, "tol": tol, "max_iter": max_iter, "on_failure": on_failure, "validate": validate}
        super().__init__(structure, check_target, **options)
        if isinstance(gamma, nn.Parameter) or not isinstance(gamma, Tensor):
            self.gamma = gamma
        else:
            self.register_buffer("gamma", gamma)

    def _loss(self, problem: Problem, y: Tensor) -> Tensor:
        rows = len(problem.scores)
        gamma = make_gamma(self.gamma, problem)
        per_row = gamma.reshape(()) if len(gamma) == 1 else problem.unflatten(gamma)
        post = sparsemap(self.structure, *problem.given(), gamma=per_row, **self.settings)
        one = problem.scores.new_ones(rows, 1)
        target = SparseDistribution(self.structure, y.unsqueeze(1), one, validate_args=False)

        def slopes() -> tuple[Tensor, ...]:
            mu, a = post.mean.reshape(rows, *self.structure.shape), target.mean
            rest = zip(post.extra_marginals, target.extra_marginals, strict=True)
            used = [used.reshape(by_target.shape) - by_target for used, by_target in rest]
            gain = _own_score(problem, post) - _own_score(problem, target)
            return (mu - a, *used, self._omega(a) - self._omega(mu), gain)

        # what is forbidden has slope 0
        inputs = [torch.where(torch.isneginf(x), 0, x) for x in (problem.scores, *problem.extra)]
        inputs = [*inputs[: len(inputs) - len(self.structure.own_extra)], gamma, torch.ones_like(gamma)]
        return _from_slopes(slopes, *(x.expand(rows, *x.shape[1:]) for x in inputs))

    def _omega(self, mu: Tensor) -> Tensor:
        """The regulariser at gamma = 1, [B]."""
        squares = mu.square() + (1 - mu).square() if self.structure.symmetric else mu.square()
        return squares.flatten(start_dim=1).sum(-1) / 2

    def extra_repr(self) -> str:
        """The settings, gamma among them."""
        gamma = self.gamma.tolist() if isinstance(self.gamma, Tensor) else self.gamma
        learned = " (learned)" if isinstance(self.gamma, nn.Parameter) else ""
        return f"{super().extra_repr()}, gamma={gamma!r}{learned}"


def _own_score(problem: Problem, post: SparseDistribution) -> Tensor:
    """What the structure's own extra scores add, in expectation, [B]."""
    structure, rows = problem.structure, len(problem.scores)
    count = len(structure.own_extra)
    if not count:
        return problem.scores.new_zeros(rows)
    z, weights = post._source.moments()
    weights = weights.reshape(rows, weights.shape[-1])
    others = [torch.zeros_like(x[:1]).unsqueeze(1) for x in (problem.scores, *problem.extra[:-count])]
    own = (x.unsqueeze(1) for x in problem.extra[-count:])
    return (weights * structure.score(z.reshape(*weights.shape, *structure.event_shape), *others, *own)).sum(-1)


def _from_slopes(slopes: Callable[[], tuple[Tensor, ...]], *inputs: Tensor) -> Tensor:
    """The sum of <input, slope> [B], for a maximum over things in which the inputs [B, ...] are linear.

    ``slopes()``, those of what attains the maximum, are then its derivatives (Danskin). They are asked for with a graph
    only if somebody wants a second one; a tracer cannot know, and gets the sum itself to differentiate.
    """
    if traced() or any(forward_ad.unpack_dual(x).tangent is not None for x in inputs):
        return _inner(inputs, slopes())
    total: Tensor = _Maximum.apply(slopes, *inputs)
    return total


def _inner(inputs: tuple[Tensor, ...], slopes: tuple[Tensor, ...]) -> Tensor:
    terms = [(x * slope).reshape(len(x), x[:1].numel()).sum(-1) for x, slope in zip(inputs, slopes, strict=True)]
    return torch.stack(terms).sum(0)


class _Maximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slopes: Callable[[], tuple[Tensor, ...]], *inputs: Tensor) -> Tensor:
        ctx.slopes = slopes
        return _inner(inputs, slopes())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Grad mode is on here if the derivatives are to be differentiated."""
        return None, *(grad.reshape(-1, *(1,) * (x.ndim - 1)) * x for x in ctx.slopes())


# ---- Targets and what is asked about them. ---------------------------------------------------------------------------


def _is_structure_fake(z: Tensor, handle: str, batch_shape: list[int]) -> Tensor:
    return z.new_empty(z.shape[0], dtype=torch.bool)


@operator("is_structure", _is_structure_fake)
def _is_structure(z: Tensor, handle: str, batch_shape: list[int]) -> Tensor:
    """Whether z [B, *event] are structures, [B]: a space may have to ask its oracle."""
    return structure_of(handle).contains(z).to(z.device) if len(z) else z.new_zeros(0, dtype=torch.bool)


def _checked_target(problem: Problem, target: Tensor, membership: bool) -> Tensor:
    """Targets [B, *event] as the structure takes them. ArgumentError if they are none."""
    structure, expected = problem.structure, problem.batch_shape + torch.Size(problem.structure.event_shape)
    name = type(structure).__name__
    if not isinstance(target, Tensor) or target.shape != expected:
        came = f"shape {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        raise ArgumentError(
            f"target: got {came}; {name} expects [*batch, *event_shape] = {tuple(expected)} for these scores"
        )
    labels = structure.event_dtype is not None and not structure.event_dtype.is_floating_point
    if target.is_complex() or (labels and (target.is_floating_point() or target.dtype == torch.bool)):
        expects = f"whole numbers, as {structure.event_dtype}" if labels else "0 and 1 of a real dtype"
        raise ArgumentError(f"target: got dtype {target.dtype}; {name} expects {expects}")
    if target.device != problem.scores.device:
        raise ArgumentError(f"target: is on {target.device}; expected the device of scores, {problem.scores.device}")
    y = target.detach().to(structure.event_dtype or torch.float64)
    y = y.reshape(len(problem.scores), *structure.event_shape)

    def refuse(y: Tensor, bad: Tensor, text: str) -> Tensor:
        return guard(problem.unflatten(y), problem.unflatten(bad), ArgumentError, text).reshape(y.shape)

    if membership:
        inside = _is_structure(y, structure.handle, problem.batch_shape)
        y = refuse(y, ~inside, f"target: is no structure of {structure!r} in {{rows}}; expected one in every row")
    forbidden = torch.isneginf(_score(problem, y).detach())
    return refuse(
        y, forbidden, "target: uses what is forbidden in {rows}; expected structures whose score is above -inf"
    )


def _named(x: object) -> str:
    return f"{x.__name__} as a class" if isinstance(x, type) else type(x).__name__


def _score(problem: Problem, z: Tensor) -> Tensor:
    """Scores [B] of z [B, *event]."""
    score: Tensor = problem.structure.score(z, problem.scores, *problem.extra)
    return score


def _vertex(problem: Problem, z: Tensor) -> Tensor:
    return problem.structure.vertex(z).to(torch.float64)


def _best(problem: Problem, scores: Tensor) -> Tensor:
    """MAP structures [B, *event] at other scores."""
    z: Tensor = opaque.argmax(scores.detach(), problem.detached()[1], problem.structure.handle, problem.batch_shape)
    return z
