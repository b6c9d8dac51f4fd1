"""The decorators of every Numba kernel: compiled once, kept on disk where there is a place, run without the GIL.

Numba keeps compiled code beside the source, or where ``NUMBA_CACHE_DIR`` says, or in the user's cache directory. Where
it can write to none of them, or the disk is full, a kernel is compiled in memory by each process instead.

A kernel that Python calls returns numbers alone, and writes into arrays that it is given. To hand out an array, or a
named tuple, Numba runs Python code of its own and does not ask how that ended: a Ctrl-C there ends the process.

What Numba keeps is valid for as long as the kernel's own file is unchanged; it does not look at the files of the
kernels that this one calls. So here all files of the directory count.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import cgutils
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(fn: Function) -> Function:
    """Compile ``fn`` at its first call, with the arithmetic exactly as it is written."""
    return _compiled(fn, fastmath=False)


def inlined_kernel(fn: Function) -> Function:
    """The same, and become part of every kernel that calls it: what it is handed then costs nothing."""
    return _compiled(fn, fastmath=False, forceinline=True)


def loose_kernel(fn: Function) -> Function:
    """The same for sums whose order does not matter, so that they become vector instructions."""
    return _compiled(fn, fastmath={"reassoc", "contract"})


@intrinsic
def uncounted(context: Any, x: Any = None) -> Any:
    """The same array without its place in the count of references, which costs more than small kernels do.

    It lives for as long as the array does that it was made of.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.return_type)(context, builder, args[0])
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()

    return x(x), emit


def _compiled(fn: Function, **options: Any) -> Function:
    try:
        compiled: Any = numba.njit(cache=True, nogil=True, **options)(fn)
    except RuntimeError:  # no place to write to
        return cast(Function, numba.njit(nogil=True, **options)(fn))
    cache = compiled._cache
    cache._cache_file._source_stamp = _stamp(Path(fn.__code__.co_filename).parent)
    cache.load_overload, cache.save_overload = _or_not(cache.load_overload), _or_not(cache.save_overload)
    return cast(Function, compiled)


def _or_not(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn``, or nothing where the disk refuses."""

    def attempt(*args: Any) -> Any:
        with contextlib.suppress(OSError):
            return fn(*args)
        return None

    return attempt


@functools.cache
def _stamp(directory: Path) -> str:
    """One word for the content of every Python file in a directory."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
