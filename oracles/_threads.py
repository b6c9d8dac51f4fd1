"""Rows of a batch over threads: for kernels that run without the GIL and treat each row alone.

The rows are cut into pieces that threads take one after the other, the caller's own among them. No row's result
depends on the cut, so the answer is the same, bit by bit, for any number of threads. How many there may be is for
whoever sits above to say (`follow`); by itself, one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

PIECE = 1 << 17  # elementary operations in a piece, about 0.1 ms: handing a piece over costs a tenth of that
PIECES_A_THREAD = 4  # so that one slow piece does not keep all others waiting

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def _one() -> int:
    return 1


_allowed: Callable[[], int] = _one


def follow(allowed: Callable[[], int]) -> None:
    """Ask ``allowed()``, each time, how many threads there may be."""
    global _allowed
    _allowed = allowed


def by_rows(fn: Callable[[int, int], object], rows: int, cost: float) -> None:
    """Call ``fn(start, stop)`` on pieces that together are 0..rows; ``cost``: elementary operations in one row."""
    threads = _allowed() if rows * cost > 2 * PIECE else 1
    pieces = min(threads * PIECES_A_THREAD, int(rows * cost) // PIECE, rows) if threads > 1 else 1
    if pieces < 2:
        fn(0, rows)
        return
    edges = [rows * i // pieces for i in range(pieces + 1)]
    waiting = iter(list(pairwise(edges)))
    others: list[Future[None]] = []
    with contextlib.suppress(RuntimeError):  # no threads are left to start, or the interpreter is about to end
        for _ in range(min(threads, pieces) - 1):
            others.append(_executor(threads - 1).submit(_work, fn, waiting))
    try:
        _work(fn, waiting)
    finally:
        for _ in waiting:  # after an error here: nobody takes another piece
            pass
        for other in others:
            other.result()


def _work(fn: Callable[[int, int], object], waiting: Iterator[tuple[int, int]]) -> None:
    for start, stop in waiting:
        fn(start, stop)


def _executor(size: int) -> ThreadPoolExecutor:
    """The pool of this process, with at least ``size`` threads."""
    global _pool, _size
    with _lock:
        if _pool is None or _size < size:
            # one that is outgrown ends with its last piece
            _pool, _size = ThreadPoolExecutor(size, thread_name_prefix="structlat"), size
        return _pool


def _forget() -> None:
    """In a forked child there are no threads but the one that forked, and a lock may never be released."""
    global _pool, _size, _lock
    _pool, _size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
