"""The supports of a batch while a solver works on them: arrays for the kernels, structures for the caller.

Between the rounds stand two worlds: the kernels, which see vertices and scores as float64 arrays, and the structure's
oracle, which speaks torch. This file is the bridge, and the only place where a solver asks an oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from structlat.errors import ArgumentError
from structlat.map_oracle import ask_argmax
from structlat.solvers import kernels
from structlat.solvers.kernels import ActiveSet, Floats, Ints
from structlat.structure import Structure

FIRST_CAPACITY = 16


class Answers(NamedTuple):
    """Structures as the kernels take them: ``z`` [N, *event], ``v`` [N, d], scores ``t`` [N] and ``used`` [N]."""

    z: Tensor
    v: Floats
    t: Floats
    used: Floats


class Supports:
    """One support a row, grown and shrunk by the kernels.

    It starts from p [B, K] on the structures z [B, K, *event], moved to its optimum if ``move``. ``scores``
    [B, *shape] and ``extra`` [B, *extra_shape] are float64, on the host, without graph, and divided by gamma. Rows in
    arguments are flat row numbers.
    """

    def __init__(
        self,
        structure: Structure,
        scores: Tensor,
        extra: tuple[Tensor, ...],
        z: Tensor,
        p: Tensor,
        *,
        validate: bool,
        move: bool = True,
    ) -> None:
        self.structure = structure
        self.scores = scores
        self.extra = extra
        self.validate = validate
        self.batch = scores.shape[0]
        self.flat_scores: Floats = np.ascontiguousarray(scores.reshape(self.batch, -1).numpy())
        self.parts = self.flat_scores.shape[1]
        # once, and not once a round: what the oracle is asked with (see kernels.TIE), and what rounding is measured by
        self.extra_above_ties = tuple(_by_row(lambda x: x * (1.0 + kernels.TIE), x) for x in extra)
        self._absolute = tuple(
            _by_row(lambda x: torch.where(torch.isneginf(x), 0, x).abs(), x) for x in (scores, *extra)
        )
        width = z.shape[1]
        capacity = max(FIRST_CAPACITY, width)
        self.z = torch.zeros(self.batch, capacity, *z.shape[2:], dtype=z.dtype, device="cpu")
        self.z[:, :width] = z
        self.state = _empty_state(self.batch, capacity, self.parts)
        size = torch.stack([x.reshape(self.batch, -1).amax(-1) for x in self._absolute if x[0].numel()]).amax(0).numpy()
        self.state.unit[:] = np.where(size > 0, np.minimum(size, 1.0), 1.0)
        every = np.repeat(np.arange(self.batch), width)
        answers = self._describe(every, z.reshape(-1, *z.shape[2:]))
        v, t, used = (x.reshape(self.batch, width, *x.shape[1:]) for x in answers[1:])
        weights = np.ascontiguousarray(p.to(torch.float64).numpy())
        kernels.load(self.state, v, t, used, weights, move)

    def ask(self, rows: Ints, gradient: Floats, extra: tuple[Tensor, ...]) -> Answers:
        """MAP structures of ``rows`` [N] at ``gradient`` [N, d] and ``extra`` [B, *extra_shape]."""
        at = torch.from_numpy(gradient).reshape(len(rows), *self.structure.shape)
        answer = ask_argmax(self.structure, at, *(_take(x, rows, self.batch) for x in extra))
        if bool(torch.isneginf(answer.score).any()):
            raise ArgumentError(
                f"{type(self.structure).__name__}.argmax: returned an infeasible structure where one is feasible "
                "(it came from this very oracle); structlat.testing.check_structure shows for which scores"
            ) from answer.cause
        return self._describe(rows, answer.z)

    def add(self, rows: Ints, slots: Ints, z: Tensor) -> None:
        """Keep the structures ``z`` that have entered at ``slots`` (-1: not entered)."""
        entered = np.flatnonzero(slots >= 0)
        self.z[torch.from_numpy(rows[entered]), torch.from_numpy(slots[entered])] = z[torch.from_numpy(entered)]

    def make_room(self) -> None:
        """See to it that every row can take in one structure more."""
        capacity = self.state.p.shape[1]
        if self.batch and self.state.size.max() >= capacity:
            wider = _empty_state(self.batch, 2 * capacity, self.parts)
            for old, new in zip(self.state, wider, strict=True):
                new[tuple(slice(0, n) for n in old.shape)] = old
            wider.slot[:, capacity:] = np.arange(capacity, 2 * capacity)
            self.state = wider
            self.z = torch.cat([self.z, torch.zeros_like(self.z)], 1)

    def members(self) -> tuple[Tensor, Tensor, Tensor]:
        """The supports in the order of entry: z [B, K, *event], p [B, K], and where they are [B, K] bool.

        Padding repeats the row's first structure with p = 0; K >= 1.
        """
        width = max(int(self.state.size.max(initial=0)), 1)
        mask = np.arange(width) < self.state.size[:, None]
        slots = np.where(mask, self.state.slot[:, :width], self.state.slot[:, :1])
        z = self.z[torch.arange(self.batch).unsqueeze(1), torch.from_numpy(slots)]
        p = np.where(mask, self.state.p[:, :width], 0.0)
        return z, torch.from_numpy(p), torch.from_numpy(mask)

    def _describe(self, rows: Ints, z: Tensor) -> Answers:
        n = len(rows)
        a = self.structure.vertex(z)
        if tuple(a.shape) != (n, *self.structure.shape):
            raise ArgumentError(
                f"{type(self.structure).__name__}.vertex: returned shape {tuple(a.shape)}; "
                f"expected {(n, *self.structure.shape)}"
            )
        v = a.to(torch.float64).reshape(n, self.parts)
        if self.validate:
            self._check_vertices(z, v)
        extra = (_take(x, rows, self.batch) for x in self.extra)
        t = self.structure.score(z, _take(self.scores, rows, self.batch), *extra)
        used = self.structure.score(z, *(_take(x, rows, self.batch) for x in self._absolute))
        return Answers(z, np.ascontiguousarray(v.numpy()), t.contiguous().numpy(), used.contiguous().numpy())

    def _check_vertices(self, z: Tensor, v: Tensor) -> None:
        name = type(self.structure).__name__
        wrong = ((v != 0) & (v != 1)).any(-1)
        if bool(wrong.any()):
            raise ArgumentError(f"{name}.argmax: returned what is no 0/1 vertex: {v[wrong][0].tolist()}")
        outside = ~self.structure.contains(z)
        if bool(outside.any()):
            raise ArgumentError(f"{name}.argmax: returned what is no structure of this space: {z[outside][0].tolist()}")


def _empty_state(batch: int, capacity: int, parts: int) -> ActiveSet:
    return ActiveSet(
        vertices=np.zeros((batch, capacity, parts)),
        t=np.zeros((batch, capacity)),
        used=np.zeros((batch, capacity)),
        slot=np.tile(np.arange(capacity), (batch, 1)),
        p=np.zeros((batch, capacity)),
        factor=np.zeros((batch, capacity, capacity)),
        y=np.zeros((batch, 2, capacity)),
        size=np.zeros(batch, dtype=np.int64),
        stuck=np.full(batch, np.inf),
        mean=np.zeros((batch, parts)),
        offset=np.zeros(batch),
        largest=np.zeros(batch),
        norm=np.zeros(batch),
        unit=np.ones(batch),
    )


def _by_row(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``fn`` of each row of x; rows that are all one in memory stay so."""
    return fn(x[:1]).expand(x.shape) if x.stride(0) == 0 else fn(x)


def _take(x: Tensor, rows: Ints, batch: int) -> Tensor:
    """Rows of x, without a copy where all of them are asked for or all are the same."""
    if len(rows) == batch and rows[0] == 0 and rows[-1] == batch - 1:
        return x
    if x.stride(0) == 0:
        return x[:1].expand(len(rows), *x.shape[1:])
    return x[torch.from_numpy(rows)]
