"""Noise for estimators: float64, from a generator and on its device, then moved to where it is wanted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Draw = Callable[[torch.Size, torch.device, torch.Generator | None], Tensor]

SMALLEST = 2.0**-54  # instead of a uniform number that is 0, which comes once in 2^53 times


def uniform(size: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform between 0 and 1, neither of them included."""
    at = device if generator is None else generator.device
    return torch.rand(size, generator=generator, dtype=torch.float64, device=at).clamp(min=SMALLEST).to(device)


def gumbel(size: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Gumbel of mean 0: where log-probabilities plus this are largest is a sample."""
    return -(-uniform(size, device, generator).log()).log() - np.euler_gamma


def logistic(size: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Logistic: the difference of two Gumbels."""
    return uniform(size, device, generator).logit()


def normal(size: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Standard normal."""
    at = device if generator is None else generator.device
    return torch.randn(size, generator=generator, dtype=torch.float64, device=at).to(device)


def _gumbel_fall(x: Tensor) -> Tensor:
    return 1 - (-x - np.euler_gamma).exp()


def _logistic_fall(x: Tensor) -> Tensor:
    return (x / 2).tanh()


def _normal_fall(x: Tensor) -> Tensor:
    return x


# how to draw it, and how fast the logarithm of its density falls at x
LAWS: dict[str, tuple[Draw, Callable[[Tensor], Tensor]]] = {
    "gumbel": (gumbel, _gumbel_fall),
    "logistic": (logistic, _logistic_fall),
    "normal": (normal, _normal_fall),
}
