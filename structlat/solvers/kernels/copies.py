"""Supports from one state to another, and out to their rows."""

from __future__ import annotations

from oracles._jit import kernel
from structlat.solvers.kernels.bits import unpack
from structlat.solvers.kernels.state import ActiveSet, Bytes, Floats, Ints


@kernel
def move(old: ActiveSet, lanes: Ints, new: ActiveSet) -> None:
    """Copy ``lanes`` of one state to the lanes 0, 1, ... of another."""
    capacity = new.p.shape[1]
    for i in range(lanes.shape[0]):
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
def extract(s: ActiveSet, v: Floats, z: Bytes, p: Floats, start: int, stop: int) -> None:
    """Write supports in the order of entry to their rows of v [B, K, d] or z [B, K, bytes], and p [B, K].

    Padding repeats the first structure with p = 0. Only one of v and z need have anything in its last dimension.
    """
    for b in range(start, stop):
        row = s.row[b]
        for k in range(p.shape[1]):
            there = k < s.size[b]
            q = s.slot[b, k if there else 0]
            p[row, k] = s.p[b, k] if there else 0.0
            if v.shape[2] > 0:
                unpack(s.words[b, q], v[row, k])
            for j in range(z.shape[2]):
                z[row, k, j] = s.z[b, q, j]
