"""The supports of a batch as arrays, one *lane* a row.

Vertices are packed, 64 parts a word: inner products of two are counts of bits. The factor is packed, too, line after
line of its lower triangle, so that what a small support leaves free is never touched, and needs no memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from oracles._jit import kernel, uncounted

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

EPS = 2.0**-52
WORD = 64
# What a round says about a row.
CONTINUES, CONVERGED, STALLED, INFEASIBLE = 0, 1, 2, 3


class ActiveSet(NamedTuple):
    """Supports with room for ``capacity`` structures each.

    A structure keeps its *slot* for as long as it is in the support; ``slot`` lists the slots in the order of the
    factor's lines, then those that are free.
    """

    words: Words  # [lanes, capacity, words], by slot: the vertices
    t: Floats  # [lanes, capacity], by slot: scores less those of the row's first structure
    used: Floats  # [lanes, capacity], by slot: the sum of the absolute scores that the structure uses
    z: Bytes  # [lanes, capacity, bytes], by slot: the structures; 0 bytes where they are their own vertices
    slot: Ints  # [lanes, capacity], by position, then the free slots
    p: Floats  # [lanes, capacity], by position
    factor: Floats  # [lanes, capacity (capacity + 1) / 2], L
    y: Floats  # [lanes, 2, capacity], L^-1 [1, r]
    size: Ints  # [lanes]
    row: Ints  # [lanes], the row of the batch
    stuck: Floats  # [lanes], the gap when rounding errors were last removed without a structure coming in since, or inf
    mean: Floats  # [lanes, 64 words]
    offset: Floats  # [lanes], the score of the row's first structure
    largest: Floats  # [lanes], the largest |score| of a structure seen
    norm: Floats  # [lanes], the largest |a|^2 of a structure seen
    unit: Floats  # [lanes], the scale at which scores differ: the largest |score| of a part, at most 1 (1 if all are 0)


def new_state(lanes: int, capacity: int, parts: int, structure_bytes: int, solving: bool) -> ActiveSet:
    """Lanes without a support; with ``solving=False`` they only keep what has been found."""
    words = (parts + WORD - 1) // WORD
    room = capacity if solving else 0
    return ActiveSet(
        np.empty((lanes, capacity, words), np.uint64),
        np.empty((lanes, capacity)),
        np.empty((lanes, capacity)),
        np.empty((lanes, capacity, structure_bytes), np.uint8),
        np.empty((lanes, capacity), np.int64),
        np.empty((lanes, capacity)),
        np.empty((lanes, room * (room + 1) // 2)),
        np.empty((lanes, 2, room)),
        np.zeros(lanes, np.int64),
        np.arange(lanes),
        np.full(lanes, np.inf),
        np.zeros((lanes, WORD * words if solving else 0)),
        np.zeros(lanes),
        np.zeros(lanes),
        np.zeros(lanes),
        np.ones(lanes),
    )


empty_state = kernel(new_state)  # for kernels


@kernel
def uncounted_state(s: ActiveSet) -> ActiveSet:
    """The same lanes: see ``uncounted``. Kernels that hand them to many others use these."""
    return ActiveSet(
        uncounted(s.words),
        uncounted(s.t),
        uncounted(s.used),
        uncounted(s.z),
        uncounted(s.slot),
        uncounted(s.p),
        uncounted(s.factor),
        uncounted(s.y),
        uncounted(s.size),
        uncounted(s.row),
        uncounted(s.stuck),
        uncounted(s.mean),
        uncounted(s.offset),
        uncounted(s.largest),
        uncounted(s.norm),
        uncounted(s.unit),
    )
