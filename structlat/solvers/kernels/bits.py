"""Arithmetic with packed 0/1 vertices, a word of 64 parts at a time, and sums that keep their rounding errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from oracles._jit import kernel, loose_kernel
from structlat.solvers.kernels.state import Floats, Words


@intrinsic
def _count(context: Any, word: Any = None) -> Any:
    """The number of ones in a word, by the processor's own instruction."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), emit


@kernel
def common(a: Words, b: Words) -> float:
    """The inner product of two vertices."""
    total = np.uint64(0)
    for w in range(a.shape[0]):
        total += _count(a[w] & b[w])
    return float(total)


@kernel
def pack(v: Floats, words: Words) -> bool:
    """Pack v [d]; False where it is no 0/1 vector."""
    strange = 0
    for w in range(words.shape[0]):
        part = v[64 * w : 64 * (w + 1)]
        word = np.uint64(0)
        for j in range(part.shape[0]):
            on = part[j] != 0.0
            word |= np.uint64(on) << np.uint64(j)
            strange += on & (part[j] != 1.0)
        words[w] = word
    return strange == 0


@kernel
def unpack(words: Words, v: Floats) -> None:
    """The vertex v [d] again."""
    for w in range(words.shape[0]):
        word, part = words[w], v[64 * w : 64 * (w + 1)]
        for j in range(part.shape[0]):
            part[j] = 1.0 if (word >> np.uint64(j)) & np.uint64(1) else 0.0


@loose_kernel
def dot(x: Floats, y: Floats) -> float:
    """The inner product of x and the beginning of y."""
    total = 0.0
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total


@loose_kernel
def subtract(x: Floats, weight: float, out: Floats) -> None:
    """Take ``weight`` x away from ``out``, to the length of x."""
    for j in range(x.shape[0]):
        out[j] -= weight * x[j]


@loose_kernel
def sum_at(x: Floats, words: Words) -> float:
    """The inner product of a vertex with x [64 words]."""
    total = 0.0
    for w in range(words.shape[0]):
        word, part = words[w], x[64 * w : 64 * w + 64]
        for j in range(64):
            total += part[j] if (word >> np.uint64(j)) & np.uint64(1) else 0.0
    return total


@loose_kernel
def selected(x: Floats, words: Words) -> tuple[float, float]:
    """The sums of x [d] and of |x| over the parts that a vertex has; -inf elsewhere does no harm."""
    total, size = 0.0, 0.0
    for w in range(words.shape[0]):
        word, part = words[w], x[64 * w : 64 * (w + 1)]
        for j in range(part.shape[0]):
            value = part[j] if (word >> np.uint64(j)) & np.uint64(1) else 0.0
            total += value
            size += abs(value)
    return total, size


@intrinsic
def _add_masked(context: Any, words: Any, weights: Any, out: Any, place: Any = None) -> Any:
    """Add weights[i] in eight numbers of ``out`` from ``place`` on, where byte ``place`` / 8 of words[i] has ones."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count, byte, eight = signature.args[0].count, ir.IntType(8), ir.VectorType(ir.DoubleType(), 8)
        array = context.make_array(signature.args[2])(context, builder, args[2])
        at = builder.bitcast(builder.gep(array.data, [args[3]]), eight.as_pointer())
        total, none = builder.load(at, align=8), ir.Constant(eight, [0.0] * 8)
        for i in range(count):
            word, weight = builder.extract_value(args[0], i), builder.extract_value(args[1], i)
            bits = builder.trunc(builder.lshr(word, builder.and_(args[3], ir.Constant(args[3].type, 63))), byte)
            mask = builder.bitcast(bits, ir.VectorType(ir.IntType(1), 8))
            one = builder.insert_element(none, weight, ir.Constant(ir.IntType(32), 0))
            every = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8))
            total = builder.fadd(total, builder.select(mask, every, none), flags=("nsz",))
        builder.store(total, at, align=8)
        return context.get_dummy_value()

    return types.void(words, weights, out, types.int64), emit


@kernel
def add_bits(word: int, weight: float, out: Floats) -> None:
    """Add ``weight`` in the 64 numbers of ``out`` where ``word`` has ones."""
    for j in range(0, 64, 8):
        _add_masked((word,), (weight,), out, j)


@kernel
def add_four(a: int, b: int, c: int, d: int, p: float, q: float, r: float, s: float, out: Floats) -> None:
    """``add_bits`` for four words and weights at once."""
    for j in range(0, 64, 8):
        _add_masked((a, b, c, d), (p, q, r, s), out, j)


@kernel
def on_grid(x: float) -> float:
    """Round x to a multiple of 2^-40: sums of such numbers are exact up to 2^13."""
    grid = 1.5 * 2.0**12
    return (x + grid) - grid


@kernel
def difference(x: float, y: float) -> tuple[float, float]:
    """Take y from x, and what rounding takes from that."""
    total = x - y
    back = total - x
    return total, (x - (total - back)) - (y + back)
