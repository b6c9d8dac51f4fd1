"""Top-k, enumeration and membership for a space that has nothing but a MAP oracle.

The combinatorics is Lawler's partition in ``oracles.partition``; here each of its subproblems ("these parts on, those
off") is put to ``argmax`` as scores, and its answer is checked and scored on the original scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oracles import partition
from structlat.errors import ArgumentError
from structlat.map_oracle import MapOracle, ask_argmax

Bools = npt.NDArray[np.bool_]


class PartOracle(MapOracle, Protocol):
    """A MAP oracle whose structures are 0/1 vectors over parts: :class:`structlat.Structure` is one."""

    shape: torch.Size
    extra_shapes: tuple[torch.Size, ...]
    own_extra: tuple[Tensor, ...]
    antichain: bool

    def vertex(self, z: Tensor) -> Tensor:
        """The 0/1 vector [..., *shape] of z."""


def topk(structure: PartOracle, scores: Tensor, extra: tuple[Tensor, ...], k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row from argmax alone (Lawler 1972); returns as ``Structure.topk``."""
    solve = _Subproblems(structure, scores, extra)
    z, valid, _ = partition.kbest(solve, scores.shape[0], torch.Size(structure.shape).numel(), k, structure.antichain)
    return torch.from_numpy(z).to(scores.device), torch.from_numpy(valid).to(scores.device)


def enumerate_all(structure: PartOracle, limit: int, antichain: bool | None = None) -> Tensor:
    """Every structure from argmax alone, generation by generation of the partition.

    ``antichain`` overrides what the structure says of itself.
    """
    parts, found = torch.Size(structure.shape).numel(), None
    for inputs in zero_inputs(structure):
        solve = _Subproblems(structure, *inputs)
        z = partition.enumerate(solve, parts, limit, structure.antichain if antichain is None else antichain)
        found = torch.from_numpy(z) if found is None else torch.cat([found, torch.from_numpy(z)]).unique(dim=0)
        if len(found) > limit:
            raise ArgumentError(
                f"limit: {type(structure).__name__} has more than {limit} structures; use sparsemap or topk_sparsemax, "
                "which do not enumerate, or enumerate(limit=...) where so many are wanted"
            )
    assert found is not None
    return found


def contains(structure: PartOracle, z: Tensor) -> Tensor:
    """Whether argmax can be made to return z: one call, with every part of its vertex forced or forbidden.

    One call for each of the rows that differ in the structure's own extra scores: in one of them is enough.
    """
    shape = torch.Size(structure.shape)
    a = structure.vertex(z)
    batch_shape = a.shape[: a.ndim - len(shape)]
    flat = a.detach().reshape(batch_shape.numel(), shape.numel())
    binary = ((flat == 0) | (flat == 1)).all(-1)
    on = (flat == 1).cpu().numpy()
    same = np.zeros(len(on), dtype=np.bool_)
    for inputs in zero_inputs(structure):
        solve = _Subproblems(structure, *inputs)
        _, vertices, score = solve(on, ~on, np.zeros(len(on), dtype=np.int64))
        same |= (vertices == on).all(-1) & (score > -np.inf)
    return (torch.from_numpy(same).to(a.device) & binary).reshape(batch_shape)


def zero_inputs(structure: PartOracle) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
    """Scores of one example that are all 0, with each row of the structure's own extra scores that differs."""

    def zeros(shape: torch.Size) -> Tensor:
        return torch.zeros(1, *shape, dtype=torch.float64, device="cpu")

    shapes = [torch.Size(shape) for shape in structure.extra_shapes]
    given = len(shapes) - len(structure.own_extra)
    extra = tuple(zeros(shape) for shape in shapes[:given])
    if not structure.own_extra:
        yield zeros(structure.shape), extra
        return
    for row in own_rows(structure.own_extra, shapes[given:]):
        yield zeros(structure.shape), (*extra, *row)


def own_rows(own: tuple[Tensor, ...], shapes: list[torch.Size]) -> Iterator[tuple[Tensor, ...]]:
    """The different rows of a structure's own extra scores, each of them [1, *extra_shape], float64, on the host."""
    pairs = [(x.detach().to("cpu", torch.float64), shape) for x, shape in zip(own, shapes, strict=True)]
    batch = torch.broadcast_shapes(*(x.shape[: x.ndim - len(shape)] for x, shape in pairs))
    flat = [x.expand(batch + shape).reshape(-1, shape.numel()) for x, shape in pairs]
    for row in torch.cat(flat, 1).unique(dim=0):
        parts = row.split([shape.numel() for shape in shapes])
        yield tuple(part.reshape(1, *shape) for part, shape in zip(parts, shapes, strict=True))


class _Subproblems:
    """The ``solve`` of ``oracles.partition``: best structure of a row with some parts forced and some forbidden."""

    def __init__(self, structure: PartOracle, scores: Tensor, extra: tuple[Tensor, ...]) -> None:
        self.structure = structure
        self.scores = scores.detach().to("cpu", torch.float64)
        self.extra = tuple(x.detach().to("cpu", torch.float64) for x in extra)

    def __call__(
        self, on: Bools, off: Bools, row: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[Any], Bools, npt.NDArray[np.float64]]:
        rows = torch.from_numpy(row)
        scores, extra = self.scores[rows], tuple(x[rows] for x in self.extra)
        forced = partition.restrict(scores.numpy(), tuple(x.numpy() for x in extra), on, off)
        answer = ask_argmax(self.structure, torch.from_numpy(forced[0]), *(torch.from_numpy(x) for x in forced[1]))
        a = self.structure.vertex(answer.z)
        vertices = (a > 0).reshape(on.shape).numpy()
        # forced and forbidden parts left the score of the answer: take it from the scores as they were
        score = self.structure.score(answer.z, scores, *extra)
        kept = torch.isfinite(answer.score) & torch.isfinite(score)
        obeyed = kept.numpy() & (vertices >= on).all(-1) & ~(vertices & off).any(-1)
        return answer.z.numpy(), vertices, np.where(obeyed, torch.where(kept, score, 0).numpy(), -np.inf)
