"""Random numbers for estimators: float64, from a generator and on its device, then moved to where they are wanted."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 2.0**-54  # instead of a uniform number that is 0, which comes once in 2^53 times


def uniform(size: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform between 0 and 1, neither of them included."""
    at = device if generator is None else generator.device
    return torch.rand(size, generator=generator, dtype=torch.float64, device=at).clamp(min=SMALLEST).to(device)


def standard_gumbel(size: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Gumbel, whose mean is Euler's constant: log-probabilities plus this are largest at a sample."""
    return -(-uniform(size, device, generator).log()).log()


def logistic(size: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Logistic, the difference of two of the above."""
    return uniform(size, device, generator).logit()
