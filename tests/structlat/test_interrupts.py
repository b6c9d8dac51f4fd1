"""Ctrl-C at any moment is a KeyboardInterrupt, and never the end of the process."""

import subprocess
import sys

import pytest

PROGRAM = """
import faulthandler, random, signal, sys, time
import torch
import structlat as sl

faulthandler.enable()
torch.set_num_threads(1)
random.seed(0)
generator = torch.Generator().manual_seed(0)
structure = eval(sys.argv[1])
scores, *extra = (torch.randn(4, *shape, generator=generator) for shape in (structure.shape, *structure.extra_shapes))


def work():
    {work}


work()
signal.signal(signal.SIGALRM, signal.default_int_handler)
interrupts, until = 0, time.monotonic() + {seconds}
while time.monotonic() < until:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.004))
        while True:
            work()
    except KeyboardInterrupt:
        interrupts += 1
print(interrupts)
"""
SPARSEMAP = "sl.sparsemap(structure, scores, *extra, solver='active_set').extra_marginals"


@pytest.mark.parametrize(
    ("structure", "work"),
    [
        ("sl.LinearChain(5, 4)", SPARSEMAP),
        ("sl.BitVector(12)", SPARSEMAP),
        ("sl.BipartiteMatching(4, 4)", SPARSEMAP),
        ("sl.Categorical(200)", "sl.sparsemax(scores)"),
        ("sl.LinearChain(5, 4)", "sl.topk_sparsemax(structure, scores, *extra, k=5).probs"),
    ],
)
def test_ctrl_c_at_any_moment(structure, work):
    program = PROGRAM.format(work=work, seconds=4)
    done = subprocess.run([sys.executable, "-c", program, structure], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[:2000]
    assert int(done.stdout) > 200
