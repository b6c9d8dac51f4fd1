"""The active set, and the completion of the face, where the structure's oracle is compiled.

Rows are solved one after the other, by threads, and Python is left once a batch. What a row gets depends on nothing
but the row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from oracles._threads import by_rows
from oracles.compiled import Compiled
from structlat.map_oracle import refusal
from structlat.solvers import kernels
from structlat.solvers.kernels import Floats, Found, Ints, Problem
from structlat.structure import Structure
from structlat.structures._host import joined


class Rows(NamedTuple):
    """Supports z [B, K, *event], p [B, K] as in ``Solution``, where they are; gap, rounds and status [B]."""

    z: Tensor
    p: Tensor
    mask: Tensor
    gap: Floats
    rounds: Ints
    status: Ints


def oracle_of(structure: Structure) -> Compiled | None:
    """The compiled oracle, if it is that of the structure's ``argmax``: a subclass may have brought one of its own."""
    asked = {"argmax", "vertex", "score"}
    if asked & vars(structure).keys():
        return None
    for cls in type(structure).__mro__:
        if "compiled" in vars(cls):
            return structure.compiled()
        if asked & vars(cls).keys():
            return None
    return None


def solve_rows(
    structure: Structure,
    oracle: Compiled,
    scores: Tensor,
    extra: tuple[Tensor, ...],
    z: Tensor,
    p: Tensor,
    *,
    tol: float = 0.0,
    limit: int = 0,
    face: bool = False,
) -> Rows:
    """Start from p [B, K] on the structures z [B, K, *event], and solve, or with ``face`` complete the face."""
    problem = _problem(structure, oracle, scores, extra, z, p)
    batch, parts = problem.scores.shape
    gap, rounds = np.empty(batch), np.empty(batch, np.int64)
    status, size = np.empty(batch, np.int64), np.empty(batch, np.int64)
    found: dict[int, Found] = {}

    def work(start: int, stop: int) -> None:
        while start < stop:
            room = kernels.room_for(problem, stop - start)
            after, count = kernels.solve_rows(problem, tol, limit, face, gap, rounds, status, size, room, start, stop)
            found[start] = Found(room.words[:count], room.z[:count], room.p[:count])
            start = after

    by_rows(work, batch, parts * (parts + 64))
    if (status > kernels.STALLED).any():
        raise refusal(structure)
    width = int(size.max(initial=1))
    zs = np.empty((batch, width, problem.z.shape[2]), np.uint8)
    vs, ps = np.empty((batch, width, problem.v.shape[2])), np.empty((batch, width))
    for start, part in found.items():
        kernels.list_rows(part, size, vs, zs, ps, start)
    kept = torch.from_numpy(vs).to(z.dtype) if vs.size else torch.from_numpy(zs).view(z.dtype)
    mask = np.arange(width) < size[:, None]
    kept = kept.reshape(batch, width, *z.shape[2:])
    return Rows(kept, torch.from_numpy(ps), torch.from_numpy(mask), gap, rounds, status)


def _problem(
    structure: Structure, oracle: Compiled, scores: Tensor, extra: tuple[Tensor, ...], z: Tensor, p: Tensor
) -> Problem:
    batch, parts, width = scores.shape[0], scores.shape[1:].numel(), z.shape[1]
    own = np.ascontiguousarray(scores.reshape(batch, parts).numpy())
    more = joined(extra, batch)
    none = z[:0, 0]
    itself = structure.vertex(none) is none
    flat = z.contiguous().reshape(batch, width, -1)
    v, kept = np.empty((batch, width, 0)), np.empty((batch, width, 0), np.uint8)
    if itself:
        v = flat.to(torch.float64).numpy()
    else:
        kept = flat.view(torch.uint8).numpy()
    unit = np.maximum(_largest(own), _largest(more))
    unit = np.where(unit > 0, np.minimum(unit, 1.0), 1.0)
    weights = np.ascontiguousarray(p.to(torch.float64).numpy())
    return Problem(oracle.argmax, oracle.describe, np.array(oracle.sizes), own, more, unit, kept, v, weights)


def _largest(x: Floats) -> Floats:
    """The largest finite absolute value of each row."""
    size: Floats = np.where(np.isneginf(x), 0, np.abs(x)).max(-1, initial=0.0)
    return size
