"""The supports of a batch while a solver works on them: arrays for the kernels, structures for the caller.

Between the rounds stand two worlds: the kernels, which see vertices and scores as arrays, and the structure's
oracle, which speaks torch. This file is the bridge, and the only place where a solver asks an oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from oracles._threads import by_rows
from structlat.errors import ArgumentError
from structlat.map_oracle import ask_feasible, refusal
from structlat.solvers import kernels
from structlat.solvers.extras import Extras, says
from structlat.solvers.kernels import ActiveSet, Bytes, Floats, Ints, Words
from structlat.structure import Structure

FIRST_CAPACITY = 16
CHUNK = 1 << 22  # parts of structures that are loaded at once: 32 MiB of vertices


class Answers(NamedTuple):
    """Structures as the kernels take them: bytes z [N, K, b], vertices v [N, K, w], ``more`` as in ``kernels.load``."""

    z: Bytes
    v: Words
    more: Floats


class Supports:
    """One support a row, each in a *lane* of ``state``; ``lanes`` [N] still work, and ``extra`` has their order.

    It starts from p [B, K] on the structures z [B, K, *event], moved to its optimum if ``moves``. ``scores``
    [B, *shape] and ``extra`` [B, *extra_shape] are float64, on the host, without graph, and divided by gamma.
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
        moves: bool = True,
    ) -> None:
        self.structure = structure
        self.validate = validate
        self.moves = moves
        self.batch, self.parts = scores.shape[0], scores.shape[1:].numel()
        self.scores: Floats = np.ascontiguousarray(scores.reshape(self.batch, self.parts).numpy())
        self.extra = Extras(structure, extra)
        self.like = z[:0, 0]
        # what is its own vertex is kept once, packed
        self._is_vertex = structure.vertex(self.like) is self.like
        one_hot = self.like.dtype == torch.int64 and says(structure, "_one_hot", "vertex")
        self._labels = structure.shape[-1] if one_hot else 0
        bytes_each = 0 if self._is_vertex else self.like.element_size() * self.like.shape[1:].numel()
        self._bound = z.shape[1]  # no support is larger
        self.state = kernels.new_state(self.batch, max(FIRST_CAPACITY, self._bound + 1), self.parts, bytes_each, True)
        self.state.unit[:] = self._unit()
        self.lanes = self.state.row.copy()
        self._done: list[ActiveSet] = []
        self._load(z, p)

    def ask(self, at: Floats, repeats: int = 1) -> Tensor:
        """MAP structures z [N * repeats, *event] at ``at`` [N * repeats, d]: as many questions for each lane."""
        questions = torch.from_numpy(at).reshape(-1, *self.structure.shape)
        answer = ask_feasible(self.structure, questions, *self.extra.first(len(self.lanes), repeats))
        return answer.to(self.like.dtype)

    def describe(self, z: Tensor, start: int = 0) -> Answers:
        """What kernels see of the structures z [N, K, *event], as many for each of the lanes from ``start`` on."""
        n, k = z.shape[:2]
        flat = z.flatten(0, 1).contiguous()
        if self.validate:
            self._check(flat)
        words = np.empty((n * k, self.state.words.shape[2]), np.uint64)
        strange = np.empty(n * k, np.bool_)
        if self._labels:
            labels = flat.reshape(n * k, -1).numpy()
            by_rows(partial(kernels.pack_labels, labels, self._labels, words, strange), n * k, 4 * labels.shape[1])
        else:
            v = self._vertices(flat).to(torch.float64).reshape(n * k, self.parts).contiguous().numpy()
            by_rows(partial(kernels.pack_vertices, v, words, strange), n * k, self.parts)
        if strange.any():
            raise self._no_vertex(flat[torch.from_numpy(strange)][:1])
        kept = np.empty((n, k, 0), np.uint8) if self._is_vertex else flat.numpy().view(np.uint8).reshape(n, k, -1)
        return Answers(kept, words.reshape(n, k, -1), self.extra.added(z, start))

    def refuse(self, status: Ints) -> None:
        """Raise for what a kernel said of the oracle's answers."""
        if (status == kernels.INFEASIBLE).any():
            raise refusal(self.structure)

    def spread(self, fn: Callable[[int, int], object], rows: int) -> None:
        """Call a kernel on ``rows`` rows, by threads."""
        by_rows(fn, rows, 8 * self.parts + self._bound * (self._bound + self.parts))

    def make_room(self, more: int = 1) -> Ints | None:
        """See to it that all lanes can take in ``more`` structures. Returns the lanes from which they moved, if so."""
        capacity = self.state.p.shape[1]
        if self._bound + more > capacity:
            self._bound = int(self.state.size[self.lanes].max(initial=1))
        self._bound += more
        if self._bound <= capacity:
            return None
        old, before = self.state, self.lanes
        self._settle(np.setdiff1d(np.arange(len(old.row)), before))
        capacity = max(2 * capacity, self._bound)
        self.state = kernels.new_state(len(before), capacity, self.parts, old.z.shape[2], True)
        self.spread(partial(kernels.move, old, before, self.state), len(before))
        self.lanes = np.arange(len(before))
        return before

    def retain(self, stays: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
        """Go on with the lanes that ``stays`` [N] names; returns the arrays [N, ...] without the others.

        The last ones take the places of those that leave: little is moved, and no order matters.
        """
        count = int(stays.sum())
        to = np.flatnonzero(~stays[:count])
        of = count + np.flatnonzero(stays[count:])
        for x in (self.lanes, *arrays):
            x[to] = x[of]
        self.extra.move(of, to)
        self.lanes = self.lanes[:count]
        return [x[:count] for x in arrays]

    def members(self) -> tuple[Tensor, Tensor, Tensor]:
        """The supports, most probable first: z [B, K, *event], p [B, K], and where they are [B, K] bool.

        Padding repeats the row's first structure with p = 0; K >= 1. All work ends here.
        """
        self._settle(np.arange(len(self.state.row)))
        size = np.ones(self.batch, np.int64)
        for s in self._done:
            size[s.row] = s.size
        width = int(size.max(initial=1))
        p = np.empty((self.batch, width))
        v = np.empty((self.batch, width, self.parts if self._is_vertex else 0))
        z = np.empty((self.batch, width, self.state.z.shape[2]), np.uint8)
        for s in self._done:
            by_rows(partial(kernels.extract, s, v, z, p), len(s.row), width * self.parts)
        kept = torch.from_numpy(v).to(self.like.dtype) if self._is_vertex else torch.from_numpy(z).view(self.like.dtype)
        mask = np.arange(width) < size[:, None]
        return kept.reshape(self.batch, width, *self.like.shape[1:]), torch.from_numpy(p), torch.from_numpy(mask)

    def _settle(self, lanes: Ints) -> None:
        """Keep of these lanes what was found, and nothing that it took."""
        if not len(lanes):
            return
        old = self.state
        if self.moves:
            self.spread(partial(kernels.finish, old, lanes), len(lanes))
        largest = int(old.size[lanes].max())
        kept = kernels.new_state(len(lanes), largest, self.parts, old.z.shape[2], False)
        self.spread(partial(kernels.move, old, lanes, kept), len(lanes))
        self._done.append(kept)

    def _load(self, z: Tensor, p: Tensor) -> None:
        weights = np.ascontiguousarray(p.to(torch.float64).numpy())
        length = max(1, CHUNK // (self.parts * z.shape[1]))
        for start in range(0, self.batch, length):
            rows = slice(start, start + length)
            part = z[rows]
            answers = self.describe(part, start)
            given = (answers.v, answers.more, answers.z, weights[rows], self.moves)
            status = np.empty(len(part), np.int64)
            self.spread(partial(kernels.load, self.state, self.lanes[rows], self.scores, *given, status), len(part))
            self.refuse(status)

    def _unit(self) -> Floats:
        finite = np.where(np.isneginf(self.scores), 0, self.scores)
        size: Floats = np.abs(finite).max(-1, initial=0.0)
        for x in self.extra.largest():
            size = np.maximum(size, x)
        return np.where(size > 0, np.minimum(size, 1.0), 1.0)

    def _vertices(self, z: Tensor) -> Tensor:
        a = self.structure.vertex(z)
        expected = (len(z), *self.structure.shape)
        if a.shape != expected:
            name = type(self.structure).__name__
            raise ArgumentError(f"{name}.vertex: returned shape {tuple(a.shape)}; expected {expected}")
        return a

    def _check(self, z: Tensor) -> None:
        a = self._vertices(z)
        wrong = ((a != 0) & (a != 1)).reshape(len(a), -1).any(-1)
        if bool(wrong.any()):
            raise self._no_vertex(z[wrong][:1])
        outside = ~self.structure.contains(z)
        if bool(outside.any()):
            name = type(self.structure).__name__
            raise ArgumentError(f"{name}.argmax: returned what is no structure of this space: {z[outside][0].tolist()}")

    def _no_vertex(self, z: Tensor) -> ArgumentError:
        a = self._vertices(z)[0]
        if bool(torch.isnan(a).any()):  # how FromArgmax says "nothing"
            return refusal(self.structure)
        return ArgumentError(f"{type(self.structure).__name__}.argmax: returned what is no 0/1 vertex: {a.tolist()}")
