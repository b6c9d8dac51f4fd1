"""Arithmetic with packed 0/1 vertices, a word of 64 parts at a time, and sums that keep their rounding errors."""

from __future__ import annotations

from typing import Any

import numpy as np
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


@loose_kernel
def add_bits(word: int, weight: float, out: Floats) -> None:
    """Add ``weight`` in the 64 numbers of ``out`` where ``word`` has ones."""
    for j in range(64):
        out[j] += weight if (word >> np.uint64(j)) & np.uint64(1) else 0.0


@loose_kernel
def add_four(a: int, b: int, c: int, d: int, p: float, q: float, r: float, s: float, out: Floats) -> None:
    """``add_bits`` for four words and weights at once."""
    for j in range(64):
        at, one = np.uint64(j), np.uint64(1)
        first = (p if (a >> at) & one else 0.0) + (q if (b >> at) & one else 0.0)
        last = (r if (c >> at) & one else 0.0) + (s if (d >> at) & one else 0.0)
        out[j] += first + last


@kernel
def add_exactly(word: int, weight: float, high: Floats, low: Floats) -> None:
    """``add_bits`` into high + low [64], which keeps in ``low`` what rounding takes from ``high`` (Knuth's TwoSum)."""
    for j in range(64):
        x = weight if (word >> np.uint64(j)) & np.uint64(1) else 0.0
        total = high[j] + x
        back = total - high[j]
        low[j] += (high[j] - (total - back)) + (x - back)
        high[j] = total


@kernel
def sum_exactly(words: Words, x: Floats, rest: Floats, high: Floats, low: Floats) -> tuple[float, float]:
    """The inner product of a vertex with x + rest, as high + low; the arrays ``high`` and ``low`` [64] are scratch."""
    high[:] = 0.0
    low[:] = 0.0
    for w in range(words.shape[0]):
        word, part, small = words[w], x[64 * w : 64 * w + 64], rest[64 * w : 64 * w + 64]
        for j in range(64):
            on = (word >> np.uint64(j)) & np.uint64(1)
            value = part[j] if on else 0.0
            total = high[j] + value
            back = total - high[j]
            low[j] += (high[j] - (total - back)) + (value - back) + (small[j] if on else 0.0)
            high[j] = total
    half = 32
    while half > 0:
        for j in range(half):
            value = high[j + half]
            total = high[j] + value
            back = total - high[j]
            low[j] += low[j + half] + ((high[j] - (total - back)) + (value - back))
            high[j] = total
        half //= 2
    return high[0], low[0]


@kernel
def add(high: float, low: float, x: float) -> tuple[float, float]:
    """Add x to high + low, keeping in ``low`` what rounding takes from ``high``."""
    total = high + x
    back = total - high
    return total, low + ((high - (total - back)) + (x - back))
