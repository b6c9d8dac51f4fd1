"""Asking a structure for its MAP: the one place in the library where ``argmax`` is called, and its answer checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from structlat.errors import ArgumentError, InfeasibleError, rows_text
from structlat.problem import Problem, make_problem

if TYPE_CHECKING:
    from structlat.structure import Structure


class MapAnswer(NamedTuple):
    """What a MAP oracle said: ``z`` [B, *event], ``score`` [B] (-inf where infeasible), and the last ValueError."""

    z: Tensor
    score: Tensor
    cause: ValueError | None


def ask_argmax(structure: Structure, scores: Tensor, *extra: Tensor) -> MapAnswer:
    """Call ``structure.argmax`` and check its answer. Every call of an oracle in the library goes through here.

    An oracle that raises ValueError is asked row by row: the rows that raise are infeasible, the others are not lost.
    """
    batch = scores.shape[0]
    if batch == 0:
        return MapAnswer(scores.new_zeros(0, *structure.event_shape, dtype=event_dtype(structure)), scores[:0], None)
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
            torch.cat([row.z.to(dtype) for row in rows]), torch.cat([row.score for row in rows]), causes[-1]
        )
    score = structure.score(z, scores, *extra).detach()
    there = torch.isfinite(score)
    if z.is_floating_point():
        there &= ~torch.isnan(z).reshape(batch, -1).any(-1)  # how FromArgmax says "nothing"
    return MapAnswer(z, torch.where(there, score, -torch.inf), None)


def event_dtype(structure: Structure) -> torch.dtype:
    """The dtype in which structures are computed with: labels as they are, 0 and 1 in float64 like the scores."""
    return structure.event_dtype or torch.float64


def _checked_shape(structure: Structure, z: Any, batch: int) -> Tensor:
    expected = (batch, *structure.event_shape)
    if not isinstance(z, Tensor) or tuple(z.shape) != expected:
        came = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ArgumentError(
            f"{type(structure).__name__}.argmax: returned {came}; expected a tensor of shape {expected}"
        )
    return z.detach()


def infeasible(structure: Structure, bad: Tensor, cause: ValueError | None = None) -> InfeasibleError:
    """The error for rows ``bad`` [*batch] in which no structure is left."""
    said = f" (its argmax said: {cause})" if cause is not None and str(cause) else ""
    return InfeasibleError(
        f"scores: no structure of {type(structure).__name__} is feasible in {rows_text(bad)}{said}; expected at "
        "least one structure all of whose parts are above -inf"
    )


def argmax(structure: Structure, scores: Tensor, *extra: Tensor) -> Tensor:
    """MAP with any batch dimensions: a structure of highest score.

    Parameters
    ----------
    structure : Structure
    scores : Tensor [*batch, *shape]
    extra : Tensors that broadcast to [*batch, *extra_shape]

    Returns
    -------
    Tensor
        z [*batch, *event_shape], in the scores' dtype where the space has no dtype of its own.

    Raises
    ------
    ArgumentError
        Wrong shapes, dtypes, NaN, +inf; InfeasibleError where a row has no feasible structure.
    """
    problem = make_problem(structure, scores, extra)
    z = problem.unflatten(first_map(problem))
    return z.to(device=scores.device, dtype=structure.event_dtype or scores.dtype)


def first_map(problem: Problem) -> Tensor:
    """MAP structures z [B, *event] of a problem; InfeasibleError, naming the rows, where there is none."""
    answer = ask_argmax(problem.structure, *problem.detached())
    bad = torch.isneginf(answer.score)
    if bool(bad.any()):
        raise infeasible(problem.structure, problem.unflatten(bad), answer.cause) from answer.cause
    return answer.z
