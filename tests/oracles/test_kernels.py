"""The kernels compile once, whatever comes in, and find their compiled code again in another process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import oracles
from oracles import _kbest, _subsets, bits, budget, chain

EXERCISE = "import numpy as np; from oracles import bits, budget, chain, _subsets; bits.topk(np.ones((1, 3)), 3)"


def test_one_compilation_a_kernel():
    wide = np.random.default_rng(0).normal(size=(6, 4, 4))
    frozen = wide.copy()
    frozen.flags.writeable = False
    for x in (
        wide,
        wide.astype(np.float32),
        np.asfortranarray(wide),
        wide[::2, ::2, ::2],
        frozen,
        wide[:0],
        wide > 0,
    ):
        side = x.shape[2]
        for transition in (x[:, : x.shape[1] - 1, :, None], x[0:1, 0] if len(x) else np.zeros(side)):
            chain.argmax(x, transition)
            chain.topk(x, transition, 3)
        bits.topk(x[:, 0], 3)
        budget.topk(x[:, 0], 3, 1, exact=False)
        budget.topk(x[:, 0], 3, side, exact=True)
    kernels = (
        _subsets.cheapest_flips,
        _subsets.cheapest_exchanges,
        chain._viterbi,
        _kbest.k_best,
    )
    assert [len(kernel.signatures) for kernel in kernels] == [1] * len(kernels)


def test_compiled_code_is_found_again(tmp_path):
    code = EXERCISE + "; s = _subsets.cheapest_flips.stats; print(len(s.cache_hits), len(s.cache_misses))"
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(oracles.__path__[0]).parent),
    }
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert [run.split() for run in runs] == [["0", "1"], ["1", "0"]]


def test_kernels_call_only_kernels_of_their_own_file():
    """Numba's cache watches one file: with a callee elsewhere, a change there would go unnoticed."""
    for module in (_subsets, chain):
        for name, value in vars(module).items():
            if hasattr(value, "signatures"):
                assert value.py_func.__module__ == module.__name__, name
