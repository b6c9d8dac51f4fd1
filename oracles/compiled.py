"""Oracles as plain C functions, for solvers that are compiled themselves and call them by address.

``argmax(at, extra, sizes, z, v, more)`` finds the best structure at the scores ``at`` and ``extra`` of one row and
writes it: z, its bytes as in an array of its own; v, its 0/1 vertex; more, what ``extra`` adds to its score, and to the
sum of its absolute scores. ``describe(scores, extra, sizes, z, v, more)`` reads z, and writes v and more. Where
structures are their own vertices, there is no z, and ``describe`` reads v. ``sizes`` are those of the space.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
from numba import types
from numba.extending import intrinsic

# views of memory that is given by address
carray: Any = vars(numba)["carray"]
_KEPT: list[Any] = []
_NUMBERS = types.CPointer(types.float64)
SIGNATURE = types.void(_NUMBERS, _NUMBERS, types.CPointer(types.int64), types.voidptr, _NUMBERS, _NUMBERS)


@intrinsic
def pointer(context: Any, number: Any = None) -> Any:
    """The int64 numbers that lie at an address."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(types.int64), emit


class Compiled(NamedTuple):
    """Addresses of the two functions, and the sizes that they are to be called with."""

    argmax: int
    describe: int
    sizes: tuple[int, ...]


@functools.cache
def address(fn: Callable[..., None]) -> int:
    """Compile ``fn`` as a C function, which stays for as long as the process does."""
    try:
        compiled: Any = numba.cfunc(SIGNATURE, cache=True)(fn)
    except (RuntimeError, OSError):  # no place to keep it
        compiled = numba.cfunc(SIGNATURE)(fn)
    _KEPT.append(compiled)
    return int(compiled.address)
