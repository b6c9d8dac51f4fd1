"""Asking the oracle for all rows of a batched solver, in torch, without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from structlat.errors import ArgumentError
from structlat.map_oracle import ask_argmax
from structlat.solvers.kernels.steps import TIE
from structlat.structure import Structure


class Answer(NamedTuple):
    """Structures and what they are worth: z [B, *event], v [B, d], scores t [B] and used [B], all in float64.

    ``infeasible`` [B]: what the oracle said is no feasible structure.
    """

    z: Tensor
    v: Tensor
    t: Tensor
    used: Tensor
    infeasible: Tensor


class Oracle:
    """The MAP oracle at ``scores`` [B, *shape] and ``extra`` [B or 1, *extra_shape], float64.

    ``used`` in its answers is the sum of the absolute scores that a structure uses: what rounding is measured by.
    """

    def __init__(self, structure: Structure, scores: Tensor, extra: tuple[Tensor, ...], validate: bool) -> None:
        self.structure = structure
        self.validate = validate
        # at (1 + TIE) (s, extra) - mu ties among fitted parts go to the larger score, not to rounding noise
        self._inputs = [(scores, *extra)]
        self._inputs.append(tuple(_by_row(lambda x: x * (1.0 + TIE), x) for x in (scores, *extra)))
        self._inputs.append(tuple(_by_row(_absolute, x) for x in (scores, *extra)))
        self._cause: ValueError | None = None

    def take(self, index: Tensor) -> Oracle:
        """The same for the rows at ``index``."""
        other = object.__new__(Oracle)
        other.structure, other.validate, other._cause = self.structure, self.validate, self._cause
        other._inputs = [tuple(_take(x, index) for x in inputs) for inputs in self._inputs]
        return other

    def ask(self, mean: Tensor) -> Answer:
        """MAP structures at the gradient, scores less ``mean`` [B, d]."""
        scores, *extra = self._inputs[1]
        answer = ask_argmax(self.structure, scores - mean.reshape(scores.shape), *extra)
        self._cause = answer.cause or self._cause
        z = answer.z.to(scores.device)
        return self.describe(z)._replace(infeasible=torch.isneginf(answer.score).to(scores.device))

    def describe(self, z: Tensor) -> Answer:
        """Vertices and scores of z, [B, *event] or [B, K, *event]; t is -inf where a forbidden part is used."""
        lead = z.shape[: z.ndim - len(self.structure.event_shape)]
        a = self.structure.vertex(z)
        if tuple(a.shape) != (*lead, *self.structure.shape):
            raise ArgumentError(
                f"{type(self.structure).__name__}.vertex: returned shape {tuple(a.shape)}; "
                f"expected {(*lead, *self.structure.shape)}"
            )
        v = a.detach().to(torch.float64).reshape(*lead, self.structure.shape.numel())
        if self.validate:
            self._check_vertices(z, v)
        inputs, _, absolute = (
            [x.unsqueeze(1) for x in tensors] if len(lead) == 2 else tensors for tensors in self._inputs
        )
        t = self.structure.score(z, *inputs).to(torch.float64)
        used = self.structure.score(z, *absolute).to(torch.float64)
        return Answer(z, v, t, used, torch.zeros(lead, dtype=torch.bool, device=z.device))

    def refuse_infeasible(self, t: Tensor) -> None:
        """Raise where the oracle answered with what is no feasible structure, ``t`` [B] bool."""
        if bool(t.any()):
            raise ArgumentError(
                f"{type(self.structure).__name__}.argmax: returned an infeasible structure where one is feasible "
                "(it came from this very oracle); structlat.testing.check_structure shows for which scores"
            ) from self._cause

    def _check_vertices(self, z: Tensor, v: Tensor) -> None:
        name = type(self.structure).__name__
        wrong = ((v != 0) & (v != 1)).any(-1)
        if bool(wrong.any()):
            raise ArgumentError(f"{name}.argmax: returned what is no 0/1 vertex: {v[wrong][0].tolist()}")
        outside = ~self.structure.contains(z)
        if bool(outside.any()):
            raise ArgumentError(f"{name}.argmax: returned what is no structure of this space: {z[outside][0].tolist()}")


def _absolute(x: Tensor) -> Tensor:
    return torch.where(torch.isneginf(x), 0, x).abs()


def _by_row(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``fn`` of each row of x; rows that are all one in memory stay so."""
    return fn(x[:1]).expand(x.shape) if len(x) and x.stride(0) == 0 else fn(x)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x; rows that are all one in memory stay so."""
    return x[:1].expand(len(index), *x.shape[1:]) if x.stride(0) == 0 else x[index]
