"""Structures in, packed; supports from one state to another, and out to their rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oracles._jit import kernel
from structlat.solvers.kernels.bits import pack, unpack
from structlat.solvers.kernels.state import ActiveSet, Bytes, Floats, Ints, Words


@kernel
def pack_vertices(v: Floats, words: Words, strange: npt.NDArray[np.bool_], start: int, stop: int) -> None:
    """Pack vertices v [N, d] into words [N, words]; ``strange`` [N] where one is no 0/1 vector."""
    for i in range(start, stop):
        strange[i] = not pack(v[i], words[i])


@kernel
def pack_labels(z: Ints, labels: int, words: Words, strange: npt.NDArray[np.bool_], start: int, stop: int) -> None:
    """The same for labels z [N, places], each 0..labels - 1, or -1 for none: vertices are one-hot, place by place."""
    for i in range(start, stop):
        words[i] = np.uint64(0)
        strange[i] = False
        for place in range(z.shape[1]):
            label = z[i, place]
            if 0 <= label < labels:
                part = place * labels + label
                words[i, part >> 6] |= np.uint64(1) << np.uint64(part & 63)
            elif label != -1:
                strange[i] = True


@kernel
def move(old: ActiveSet, lanes: Ints, new: ActiveSet, start: int, stop: int) -> None:
    """Copy ``lanes`` of one state to the lanes 0, 1, ... of another."""
    capacity = new.p.shape[1]
    for i in range(start, stop):
        b = lanes[i]
        n = old.size[b]
        for k in range(n):
            q = old.slot[b, k]
            new.words[i, k] = old.words[b, q]
            new.t[i, k] = old.t[b, q]
            new.used[i, k] = old.used[b, q]
            new.z[i, k] = old.z[b, q]
            new.p[i, k] = old.p[b, k]
        for k in range(capacity):
            new.slot[i, k] = k
        new.size[i], new.row[i] = n, old.row[b]
        if new.y.shape[2] > 0:
            new.factor[i, : n * (n + 1) // 2] = old.factor[b, : n * (n + 1) // 2]
            new.y[i, :, :n] = old.y[b, :, :n]
            new.mean[i] = old.mean[b]
            new.stuck[i], new.offset[i], new.largest[i] = old.stuck[b], old.offset[b], old.largest[b]
            new.norm[i], new.unit[i] = old.norm[b], old.unit[b]


@kernel
def by_probability(s: ActiveSet, b: int, order: Ints) -> None:
    """Fill ``order`` with the positions of lane b, most probable first."""
    for k in range(s.size[b]):  # insertion: stable, and supports are small
        i = k
        while i > 0 and s.p[b, order[i - 1]] < s.p[b, k]:
            order[i] = order[i - 1]
            i -= 1
        order[i] = k


@kernel
def extract(s: ActiveSet, v: Floats, z: Bytes, p: Floats, start: int, stop: int) -> None:
    """Write supports, most probable first, to their rows of v [B, K, d] or z [B, K, bytes], and p [B, K].

    Padding repeats the first structure with p = 0. Only one of v and z need have anything in its last dimension.
    """
    order = np.empty(p.shape[1], np.int64)
    for b in range(start, stop):
        row, n = s.row[b], s.size[b]
        by_probability(s, b, order)
        for k in range(p.shape[1]):
            there = k < n
            place = order[k if there else 0]
            q = s.slot[b, place]
            p[row, k] = s.p[b, place] if there else 0.0
            if v.shape[2] > 0:
                unpack(s.words[b, q], v[row, k])
            for j in range(z.shape[2]):
                z[row, k, j] = s.z[b, q, j]
