"""Whole rows, where the structure's oracle is compiled, too: no step of the method goes through Python.

A piece of rows has one lane, in which they are solved one after the other, and one list of what was found.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from oracles._jit import inlined_kernel, kernel
from structlat.solvers.kernels.bits import pack, unpack
from structlat.solvers.kernels.copies import by_probability, move
from structlat.solvers.kernels.face import aim, widen_one
from structlat.solvers.kernels.state import (
    CONTINUES,
    STALLED,
    WORD,
    ActiveSet,
    Bytes,
    Floats,
    Ints,
    Words,
    empty_state,
    uncounted_state,
)
from structlat.solvers.kernels.steps import advance_one, ask, finish_one, load_one

FIRST_CAPACITY = 16
FEW = 32  # structures, in a small support
FULL = -1  # a row goes on as soon as its lane has more room


class Problem(NamedTuple):
    """A batch, the oracle to be asked (see ``oracles.compiled``), and what rows start from: p on z, or on v."""

    argmax: int
    describe: int
    sizes: Ints
    scores: Floats  # [B, d]
    extra: Floats  # [B or 1, e]
    unit: Floats  # [B], as in ActiveSet
    z: Bytes  # [B, K, bytes]: the structures; 0 bytes where they are their own vertices
    v: Floats  # [B, K, d] if so, else [B, K, 0]
    p: Floats  # [B, K]


class Found(NamedTuple):
    """Room for the supports of a piece of rows, one after the other, each most probable first."""

    words: Words  # [N, words]
    z: Bytes  # [N, bytes]
    p: Floats  # [N]


class Desk(NamedTuple):
    """What one row needs and the next one writes over."""

    at: Floats  # [d], what the oracle is asked
    z: Bytes  # [bytes], its answer
    v: Floats  # [d]
    more: Floats  # [2], what extra scores add to its score, and to the sum of its absolute scores
    words: Words  # [words]
    q: Floats  # [64 words + 1], the direction in which the face is asked


@intrinsic
def _call(context: Any, address: Any, scores: Any, extra: Any, sizes: Any, z: Any, v: Any, more: Any = None) -> Any:
    """Call a C function of ``oracles.compiled.SIGNATURE`` by its address."""
    numbers, integers = types.CPointer(types.float64), types.CPointer(types.int64)
    signature = types.void(types.int64, numbers, numbers, integers, types.voidptr, numbers, numbers)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [context.get_value_type(x) for x in signature.args[1:]])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return signature, emit


@inlined_kernel
def _query(problem: Problem, address: int, b: int, at: Floats, z: Bytes, v: Floats, more: Floats) -> None:
    extra = problem.extra[b if problem.extra.shape[0] > 1 else 0]
    _call(address, at.ctypes, extra.ctypes, problem.sizes.ctypes, z.ctypes, v.ctypes, more.ctypes)


@kernel
def _start(s: ActiveSet, lane: int, problem: Problem, b: int, moves: bool) -> int:
    """Load row b into the lane; returns its status."""
    count, d = problem.p.shape[1], problem.scores.shape[1]
    own, z, words = problem.scores[b], problem.z[b], np.empty((count, s.words.shape[2]), np.uint64)
    added, size, v, more = np.zeros(count), np.zeros(count), np.empty(d), np.zeros(2)
    for k in range(count):
        if problem.v.shape[2] > 0:
            v[:] = problem.v[b, k]
        _query(problem, problem.describe, b, own, z[k], v, more)
        pack(v, words[k])
        added[k], size[k] = more[0], more[1]
    s.row[lane], s.unit[lane] = b, problem.unit[b]
    return load_one(s, lane, own, words, added, size, z, problem.p[b], moves)


@kernel
def _solve(
    s: ActiveSet,
    lane: int,
    problem: Problem,
    b: int,
    desk: Desk,
    c: Floats,
    tol: float,
    limit: int,
    rounds: int,
    gap: float,
) -> tuple[int, float, int]:
    """The active-set method for the row b that is loaded, until it ends or the lane is full: status, gap, rounds."""
    own, status = problem.scores[b], CONTINUES
    while status == CONTINUES and rounds < limit:
        if s.size[lane] == s.p.shape[1]:
            return FULL, gap, rounds
        rounds += 1
        ask(s, lane, own, desk.at)
        _query(problem, problem.argmax, b, desk.at, desk.z, desk.v, desk.more)
        pack(desk.v, desk.words)
        status, gap = advance_one(s, lane, own, desk.words, desk.more[0], desk.more[1], desk.z, tol, c)
    if status <= STALLED:
        finish_one(s, lane, c)
    return status, gap, rounds


@kernel
def _complete(s: ActiveSet, lane: int, problem: Problem, b: int, desk: Desk, c: Floats, drawn: int) -> tuple[int, int]:
    """Complete the face of the row b that is loaded, until the lane is full: status, directions drawn.

    On a face that is not complete a direction, asked both ways, finds a new vertex (but for a set of measure zero).
    """
    own, mean, status, found = problem.scores[b], s.mean[lane], CONTINUES, True
    while status == CONTINUES and found and s.size[lane] <= own.shape[0]:
        if s.size[lane] + 2 > s.p.shape[1]:
            return FULL, drawn
        aim(s, lane, drawn, own.shape[0], desk.q, c)
        drawn, found, sign = drawn + 1, False, 1.0
        for _ in range(2):
            for j in range(own.shape[0]):
                desk.at[j] = own[j] - mean[j] + sign * desk.q[j]
            _query(problem, problem.argmax, b, desk.at, desk.z, desk.v, desk.more)
            pack(desk.v, desk.words)
            status, new = widen_one(s, lane, own, desk.words, desk.more[0], desk.more[1], desk.z)
            if status != CONTINUES:
                break
            found, sign = found or new, -1.0
    return status, drawn


@kernel
def _wider(s: ActiveSet, parts: int) -> ActiveSet:
    """The lane with twice the room."""
    lanes = np.zeros(s.row.shape[0], np.int64)
    wider = empty_state(lanes.shape[0], 2 * s.p.shape[1], parts, s.z.shape[2], True)
    move(s, lanes, wider, lanes[0], lanes.shape[0])
    return wider


def room_for(problem: Problem, rows: int) -> Found:
    """Room for the supports of one row whatever its support, and of so many if they are small."""
    d, size = problem.scores.shape[1], problem.scores.shape[1] + 2 + FEW * rows
    words, z = np.empty((size, (d + WORD - 1) // WORD), np.uint64), np.empty((size, problem.z.shape[2]), np.uint8)
    return Found(words, z, np.empty(size))


@kernel
def solve_rows(
    problem: Problem, tol: float, limit: int, face: bool,
    gap: Floats, rounds: Ints, status: Ints, size: Ints, found: Found, start: int, stop: int,
) -> tuple[int, int]:  # fmt: skip
    """The active-set method for the rows start..stop, or with ``face`` the completion of their faces.

    Writes gap, rounds, status and the size of the support, each [B], and the supports to ``found``. Stops where the
    next one might not fit. Returns the row that comes next, and how many structures there are in ``found``.
    """
    d, each = problem.scores.shape[1], problem.z.shape[2]
    owned = empty_state(1, max(FIRST_CAPACITY, problem.p.shape[1] + 1), d, each, True)
    s, c = uncounted_state(owned), np.empty(owned.p.shape[1])
    words = s.words.shape[2]
    desk = Desk(
        np.empty(d), np.empty(each, np.uint8), np.empty(d), np.zeros(2),
        np.empty(words, np.uint64), np.empty(s.mean.shape[1] + 1),
    )  # fmt: skip
    total, order = 0, np.empty(d + 2, np.int64)
    lane = s.row.shape[0] - 1  # 0, but to Numba a number like any other: for a constant it compiles everything anew
    for b in range(start, stop):
        if total + len(order) > found.p.shape[0]:
            stop = b
            break
        status[b], gap[b], rounds[b], drawn = _start(s, lane, problem, b, not face), np.inf, 0, 0
        goes_on = status[b] == CONTINUES
        while goes_on:
            if face:
                status[b], drawn = _complete(s, lane, problem, b, desk, c, drawn)
            else:
                status[b], gap[b], rounds[b] = _solve(s, lane, problem, b, desk, c, tol, limit, rounds[b], gap[b])
            goes_on = status[b] == FULL
            if goes_on:
                owned = _wider(s, d)
                s, c = uncounted_state(owned), np.empty(owned.p.shape[1])
        size[b] = s.size[lane]
        by_probability(s, lane, order)
        for k in range(size[b]):
            place = order[k]
            slot = s.slot[lane, place]
            found.words[total], found.z[total], found.p[total] = s.words[lane, slot], s.z[lane, slot], s.p[lane, place]
            total += 1
    size[start:stop] += 0 * owned.size[0]  # it has to live until here
    return stop, total


@kernel
def list_rows(found: Found, size: Ints, v: Floats, z: Bytes, p: Floats, start: int) -> None:
    """Write the supports of the rows from ``start`` on to v [B, K, d] or z [B, K, bytes], and p [B, K].

    Padding repeats the first structure with p = 0. Only one of v and z need have anything in its last dimension.
    """
    at, b = 0, start
    while at < found.p.shape[0]:
        for k in range(p.shape[1]):
            there = k < size[b]
            i = at + k if there else at
            p[b, k] = found.p[i] if there else 0.0
            if v.shape[2] > 0:
                unpack(found.words[i], v[b, k])
            z[b, k] = found.z[i]
        at += size[b]
        b += 1
