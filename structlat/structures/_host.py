"""The step from torch to the oracles and back, and the gathers that scores of labelled structures are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from structlat.errors import ArgumentError
from structlat.structure import Structure


def to_numpy(x: Tensor) -> npt.NDArray[np.float64]:
    """Scores as a float64 array on the host; a batch that is one row repeated stays so."""
    return np.asarray(x.detach().cpu().to(torch.float64).numpy())


def joined(extra: Sequence[Tensor], rows: int) -> npt.NDArray[np.float64]:
    """Extra scores [B, *extra_shape] on the host, one after the other: [B, Q], or [1, Q] where all rows share all."""
    shared = all(x.stride(0) == 0 or len(x) == 1 for x in extra)
    count = 1 if shared else rows
    several = (x[:1] if shared else x.expand(rows, *x.shape[1:]) for x in extra)
    flat = [to_numpy(x).reshape(count, x.shape[1:].numel()) for x in several]
    return (
        np.concatenate(flat, axis=1) if len(flat) > 1 else np.ascontiguousarray(flat[0]) if flat else np.empty((1, 0))
    )


def to_torch(x: npt.NDArray[Any], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An oracle's answer on the device of ``like``; ``dtype`` for 0/1 vectors, which oracles return as bool."""
    if dtype is torch.float64:
        # torch would wake its own threads for this, which then spin while the solver's want the processors
        x = x.astype(np.float64)
    return torch.from_numpy(x).to(device=like.device, dtype=dtype)


def pick(x: Tensor, index_ndim: int, *index: Tensor) -> Tensor:
    """Entries of x [*b, n1, .., nm] at ``index``, m tensors [*c, *i] with i of ``index_ndim`` dimensions: [*b|c, *i].

    The batch dimensions broadcast without x being expanded: its gradient has the size of x.
    """
    lead = x.shape[: x.ndim - len(index)]
    where = []
    for position, n in enumerate(lead):
        after = index_ndim + len(lead) - 1 - position
        where.append(torch.arange(n, device=x.device).reshape(n, *(1,) * after))
    return x[(*where, *index)]


def refuse_past(limit: int, count: int, name: str) -> None:
    """Refuse to enumerate more than ``limit`` structures, saying how many there are."""
    if count > limit:
        shown = f"{count:,}" if count < 10**15 else f"about {float(count):.1e}" if count < 10**300 else "over 1e300"
        raise ArgumentError(
            f"limit: {name} has {shown} structures, more than {limit}; use sparsemap or topk_sparsemax, which do not "
            "enumerate, or enumerate(limit=...) where so many are wanted"
        )


def check_event(structure: Structure, z: Tensor) -> None:
    """Refuse z that has not the trailing shape of one structure."""
    event = torch.Size(structure.event_shape)
    if not isinstance(z, Tensor) or z.ndim < len(event) or z.shape[z.ndim - len(event) :] != event:
        came = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ArgumentError(f"z: got {came}; {structure!r} expects a tensor [*batch, *{tuple(event)}]")


def is_label(z: Tensor, n: int) -> Tensor:
    """Whether entries are whole numbers from 0 to n - 1."""
    inside = (z >= 0) & (z < n)
    return inside & (z == z.floor()) if z.is_floating_point() else inside


def is_binary(z: Tensor) -> Tensor:
    """Whether z [..., n] is a 0/1 vector."""
    return ((z == 0) | (z == 1)).all(-1)
