"""Asking a structure for its MAP: the one place in the library where ``argmax`` is called, and its answer checked."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from structlat.errors import ArgumentError


class MapOracle(Protocol):
    """What has to be known of a structure to ask it: :class:`structlat.Structure` is one."""

    event_dtype: torch.dtype | None

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one structure z."""

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """Z [B, *event_shape] of highest score."""

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """Score of z, [B]."""


class MapAnswer(NamedTuple):
    """What a MAP oracle said: ``z`` [B, *event], ``score`` [B] (-inf where infeasible), and the last ValueError."""

    z: Tensor
    score: Tensor
    cause: ValueError | None


def ask_argmax(structure: MapOracle, scores: Tensor, *extra: Tensor) -> MapAnswer:
    """Call ``structure.argmax`` and check its answer. Every call of an oracle in the library goes through here.

    An oracle that raises ValueError is asked row by row: the rows that raise are infeasible, the others are not lost.
    """
    batch = scores.shape[0]
    if batch == 0:
        return MapAnswer(
            scores.new_zeros(0, *structure.event_shape, dtype=event_dtype(structure)), scores.new_zeros(0), None
        )
    try:
        z = _checked_shape(structure, structure.argmax(scores, *extra), batch)
    except ArgumentError:
        raise
    except ValueError as error:
        if batch == 1:
            z = scores.new_zeros(1, *structure.event_shape, dtype=event_dtype(structure))
            return MapAnswer(z, scores.new_full((1,), -torch.inf), error)
        rows = [ask_argmax(structure, *(x[i : i + 1] for x in (scores, *extra))) for i in range(batch)]
        causes = [row.cause for row in rows if row.cause is not None]
        dtype = next((row.z.dtype for row in rows if row.cause is None), rows[0].z.dtype)
        return MapAnswer(
            torch.cat([row.z.to(dtype) for row in rows]),
            torch.cat([row.score for row in rows]),
            causes[-1] if causes else None,
        )
    score = structure.score(z, scores, *extra).detach()
    there = torch.isfinite(score)
    if z.is_floating_point():
        there &= ~torch.isnan(z).reshape(batch, -1).any(-1)  # how FromArgmax says "nothing"
    return MapAnswer(z, torch.where(there, score, -torch.inf), None)


def ask_feasible(structure: MapOracle, scores: Tensor, *extra: Tensor) -> Tensor:
    """MAP structures where every row has one, which the caller scores himself: half of the work is saved.

    ArgumentError where the oracle says that there is none after all.
    """
    try:
        return _checked_shape(structure, structure.argmax(scores, *extra), scores.shape[0])
    except ArgumentError:
        raise
    except ValueError:
        answer = ask_argmax(structure, scores, *extra)
    if bool(torch.isneginf(answer.score).any()):
        raise refusal(structure) from answer.cause
    return answer.z


def refusal(structure: MapOracle) -> ArgumentError:
    """The error for an oracle that found a structure and later says that there is none."""
    return ArgumentError(
        f"{type(structure).__name__}.argmax: returned an infeasible structure where one is feasible "
        "(it came from this very oracle); structlat.testing.check_structure shows for which scores"
    )


def event_dtype(structure: MapOracle) -> torch.dtype:
    """The dtype in which structures are computed with: labels as they are, 0 and 1 in float64 like the scores."""
    return structure.event_dtype or torch.float64


def _checked_shape(structure: MapOracle, z: Any, batch: int) -> Tensor:
    expected = (batch, *structure.event_shape)
    if not isinstance(z, Tensor) or tuple(z.shape) != expected:
        came = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ArgumentError(
            f"{type(structure).__name__}.argmax: returned {came}; expected a tensor of shape {expected}"
        )
    return z.detach()
