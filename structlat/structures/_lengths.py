"""Lengths of padded examples, checked: what the ``mask`` helpers of all spaces begin with."""

from __future__ import annotations

import torch
from torch import Tensor

from structlat.errors import ArgumentError, rows_text
from structlat.problem import make_problem
from structlat.structure import Structure


def checked_lengths(
    name: str, lengths: Tensor | None, most: int, batch_shape: torch.Size, device: torch.device, least: int = 0
) -> Tensor:
    """``lengths`` as int64 [*batch] on ``device``; None stands for ``most`` in every row.

    Raises
    ------
    ArgumentError
        It is no integer tensor, does not broadcast to ``batch_shape``, or has an entry outside ``least`` .. ``most``.
    """
    if lengths is None:
        return torch.full(batch_shape, most, dtype=torch.int64, device=device)
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        came = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise ArgumentError(f"{name}: got {came}; expected a tensor of an integer dtype")
    bad = (lengths < least) | (lengths > most)
    if bool(bad.any()):
        raise ArgumentError(f"{name}: outside {least}..{most} in {rows_text(bad)}")
    try:
        return lengths.to(device=device, dtype=torch.int64).expand(batch_shape)
    except RuntimeError:
        raise ArgumentError(
            f"{name}: got shape {tuple(lengths.shape)}; expected one that broadcasts to {tuple(batch_shape)}"
        ) from None


def past_length(structure: Structure, scores: Tensor, lengths: Tensor, least: int = 0) -> Tensor:
    """Which parts of a space whose parts are in a row lie past the row's length: bool [*batch, n]."""
    batch_shape = make_problem(structure, scores, ()).batch_shape
    n = scores.shape[-1]
    lengths = checked_lengths("lengths", lengths, n, batch_shape, scores.device, least)
    return torch.arange(n, device=scores.device) >= lengths.unsqueeze(-1)
