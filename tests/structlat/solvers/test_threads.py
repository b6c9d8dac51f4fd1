"""Rows over threads: the same answer bit by bit, from any thread, and in forked children."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import structlat as sl
from oracles import _threads, chain
from tests.judge import draw


@pytest.fixture
def pieces(monkeypatch):
    """Batches are cut into pieces however small they are; says how many threads are allowed."""
    monkeypatch.setattr(_threads, "PIECE", 1)

    def allow(count):
        monkeypatch.setattr(_threads, "_allowed", lambda: count)

    allow(2)
    return allow


def solved(structure, inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    post = sl.sparsemap(structure, *inputs, solver="active_set")
    slope = torch.autograd.grad((post.mean**3).sum(), inputs[0])[0]
    return post.structures, post.probs.detach(), post.info.gap, post.info.iterations, post.mean.detach(), slope


def problems(generator):
    for structure in (sl.BitVector(40), sl.LinearChain(8, 4), sl.BipartiteMatching(5, 5), sl.BudgetBitVector(20, 6)):
        yield structure, draw(structure, generator, 13)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_any_number_of_threads_gives_the_same_bits(generator, pieces):
    for structure, inputs in problems(generator):
        pieces(1)
        want = solved(structure, inputs)
        for count in (2, 3, 7):
            pieces(count)
            assert same(solved(structure, inputs), want)


def test_the_number_of_threads_is_that_of_torch():
    before = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert _threads._allowed() == count
    finally:
        torch.set_num_threads(before)


def test_every_row_is_in_one_piece(pieces):
    for rows in (1, 2, 3, 17, 100):
        for count in (1, 2, 5):
            pieces(count)
            seen = np.zeros(rows, int)

            def visit(start, stop, seen=seen):
                seen[start:stop] += 1

            _threads.by_rows(visit, rows, 1.0)
            assert (seen == 1).all()


def test_small_batches_stay_with_the_caller(monkeypatch):
    monkeypatch.setattr(_threads, "_allowed", lambda: 4)
    by = []
    _threads.by_rows(lambda start, stop: by.append((start, stop, threading.get_ident())), 10, 1.0)
    assert by == [(0, 10, threading.get_ident())]


def test_errors_come_to_the_caller(pieces):
    def fail(start, stop):
        if start >= 5:
            raise KeyError(start)

    with pytest.raises(KeyError):
        _threads.by_rows(fail, 16, 1.0)
    with pytest.raises(ValueError, match="transition contains nan"):
        chain.argmax(
            np.zeros((8, 3, 3)), np.where(np.arange(8)[:, None, None, None] == 6, np.nan, np.zeros((8, 2, 3, 3)))
        )


def test_where_no_thread_can_start(pieces, monkeypatch):
    def refuse(size):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_threads, "_executor", refuse)
    done = []
    _threads.by_rows(lambda start, stop: done.append((start, stop)), 9, 1.0)
    assert done[0][0] == 0
    assert done[-1][1] == 9


def test_several_python_threads_at_once(generator, pieces):
    work = list(problems(generator))
    want = [solved(*problem) for problem in work]
    got, errors = {}, []

    def run(name):
        try:
            for _ in range(3):
                got[name] = [solved(*problem) for problem in work]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors
    assert all(same(a, b) for answers in got.values() for a, b in zip(answers, want, strict=True))


FORKED = """
import os, sys, warnings
warnings.simplefilter("ignore")
import torch, structlat as sl
from oracles import _threads
_threads.PIECE = 1
torch.set_num_threads(2)
bits = sl.BitVector(24)
x = torch.randn(32, 24, generator=torch.Generator().manual_seed(0))
def solve(i):
    return sl.sparsemap(bits, x[i], solver="active_set").mean
want = solve(slice(None))                      # makes the pool of the parent
assert _threads._pool is not None
child = os.fork()
if child == 0:
    torch.set_num_threads(2)
    os._exit(0 if torch.equal(solve(slice(None)), want) and _threads._pool is not None else 1)
assert os.waitpid(child, 0)[1] == 0
class Examples(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        return solve(slice(4 * i, 4 * i + 4))
loader = torch.utils.data.DataLoader(Examples(), batch_size=None, num_workers=2, multiprocessing_context="fork")
for _ in range(2):
    assert torch.equal(torch.cat(list(loader)), torch.cat([solve(slice(4 * i, 4 * i + 4)) for i in range(8)]))
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_children_and_data_loaders():
    environment = {**os.environ, "PYTHONPATH": str(Path(sl.__file__).parent.parent)}
    run = subprocess.run(
        [sys.executable, "-c", FORKED], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout == "fine\n", run.stderr
