"""Perturb-and-MAP: random structures by adding noise to the scores and asking for the best, for any space."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from structlat import opaque
from structlat.errors import ArgumentError, InfeasibleError, check_choice
from structlat.problem import Problem, make_problem
from structlat.structure import Structure

NOISES = ("gumbel", "normal")
SMALLEST = 2.0**-54  # instead of a uniform number that is 0, which comes once in 2^53 times


def perturb_and_map(
    structure: Structure,
    scores: Tensor,
    *extra: Tensor,
    shape: torch.Size | tuple[int, ...] = (),
    scale: float = 1.0,
    noise: str = "gumbel",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw structures of highest perturbed score: independent samples, through ``argmax`` alone, of any space.

    With Gumbel noise they are approximate samples from softmax(score / scale) over all structures: exact for
    :class:`structlat.Categorical` and :class:`structlat.BitVector`, and for chains without transitions. Elsewhere parts
    that go together have noise of their own each, and the law of the samples is another than softmax.
    ``structure.sample`` is exact where it is tractable.

    Parameters
    ----------
    structure : Structure
    scores : Tensor [*batch, *shape]
        These get the noise: one number a part, independent. -inf forbids a part, as ever.
    extra : Tensors that broadcast to [*batch, *extra_shape]
        Used as they are.
    shape : tuple of int
        Of the sample. All of it goes to the oracle in one call.
    scale : float
        What the noise is multiplied by, above 0.
    noise : {"gumbel", "normal"}
        Gumbel of mean 0. Where a structure may contain another (``antichain`` is False), leaving a part off is a
        choice of its own and has noise of its own: the part gets the difference of two. Or standard normal.
    generator : torch.Generator, optional
        What to draw from. Default: torch's own.

    Returns
    -------
    Tensor
        z [*shape, *batch, *event_shape], without a graph; the scores' dtype where the space has no dtype of its own.

    Raises
    ------
    ArgumentError
        Bad scores, scale or noise; InfeasibleError where a row has no feasible structure.

    Notes
    -----
    Papandreou and Yuille (2011), *Perturb-and-MAP Random Fields*; Hazan and Jaakkola (2012), *On the Partition Function
    and Random Maximum A-Posteriori Perturbations*.
    """
    check_noise(scale, noise)
    problem = make_problem(structure, scores, extra)
    shape = torch.Size(shape)
    z = perturbed(problem, shape.numel(), scale, noise, generator).z
    z = z.to(device=scores.device, dtype=structure.event_dtype or scores.dtype)
    return z.reshape(shape + problem.batch_shape + torch.Size(structure.event_shape))


class Perturbed(NamedTuple):
    """``count`` draws for each of B rows: what was added to the scores, and the structures that were best then."""

    noise: Tensor  # [count, B, *shape]
    z: Tensor  # [count, B, *event]


def check_noise(scale: float, noise: str) -> None:
    """Check the two words about the noise: there, and where a loss keeps them."""
    check_choice("noise", noise, NOISES)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise ArgumentError(f"scale: got {scale!r}; expected a positive finite number")


def perturbed(problem: Problem, count: int, scale: float, noise: str, generator: torch.Generator | None) -> Perturbed:
    """Perturb the scores of every row ``count`` times and find the best structures, by one call of the oracle."""
    structure = problem.structure
    scores, extra = problem.detached()
    rows = len(scores)
    size = torch.Size([count, rows, *structure.shape])
    added = scale * _draw(size, noise, not structure.antichain, generator).to(scores.device)

    def repeated(x: Tensor) -> Tensor:
        return x.expand(count, *x.shape).reshape(count * rows, *x.shape[1:]) if len(x) == rows else x

    asked = (scores + added).flatten(end_dim=1)
    try:
        z = opaque.argmax(asked, [repeated(x) for x in extra], structure.handle, torch.Size([count * rows]))
    except InfeasibleError:
        opaque.argmax(scores, extra, structure.handle, problem.batch_shape)  # names the rows as the caller knows them
        raise
    return Perturbed(added, z.reshape(count, rows, *structure.event_shape))


def _draw(size: torch.Size, noise: str, both_ways: bool, generator: torch.Generator | None) -> Tensor:
    """Noise of mean 0, in float64, on the generator's device."""
    device = torch.device("cpu") if generator is None else generator.device
    if noise == "normal":
        return torch.randn(size, generator=generator, dtype=torch.float64, device=device)

    def gumbel() -> Tensor:
        uniform = torch.rand(size, generator=generator, dtype=torch.float64, device=device).clamp(min=SMALLEST)
        return -(-uniform.log()).log()

    return gumbel() - gumbel() if both_ways else gumbel() - np.euler_gamma
