"""Every way to train through a discrete latent variable, behind one constructor and one call.

    estimator = structlat.estimators.get("sparsemap")(structure)
    out = estimator(loss_fn, scores)
    out.surrogate.mean().backward()

``loss_fn(z, i) -> [N]`` is the loss of structures z [N, *event] of the flat rows i [N] of the batch.

| name | q | loss calls a row | gradient |
|---|---|---|---|
| ``softmax``, ``sparsemax`` | that, over all structures | as many as have probability | exact |
| ``topk``, ``sparsemap``, ``sparsemap-budget`` | sparse | as many as have probability | exact |
| ``sum-and-sample`` | softmax | k + 1 | unbiased |
| ``sfe``, ``sfe+``, ``rloo``, ``nvil`` | softmax | 1, 2, 2, 1 (a sample) | unbiased |
| ``disarm`` | softmax of bits | 2 | unbiased |
| ``vimco`` | softmax | 5 (one a sample) | unbiased for a bound |
| ``gumbel``, ``st-gumbel`` | softmax of one choice, or of bits | 1 (a sample) | biased |
| ``perturb-and-map`` | best of noisy scores | 2 (a sample, and the best) | unbiased for this q |
| ``imle`` | best of noisy scores | 1 (a sample) | biased |
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from structlat.errors import check_choice
from structlat.estimators import exact
from structlat.estimators.base import Estimate, Estimator
from structlat.estimators.disarm import DisARM
from structlat.estimators.exact import Exact
from structlat.estimators.gumbel_softmax import GumbelSoftmax
from structlat.estimators.imle import IMLE
from structlat.estimators.nvil import NVIL
from structlat.estimators.perturb_and_map import PerturbAndMAP
from structlat.estimators.score_function import ScoreFunction
from structlat.estimators.sum_and_sample import SumAndSample
from structlat.estimators.vimco import VIMCO

ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "softmax": exact.softmax,
    "sparsemax": exact.sparsemax,
    "topk": exact.topk,
    "sparsemap": exact.sparsemap,
    "sparsemap-budget": exact.sparsemap_budget,
    "sfe": functools.partial(ScoreFunction, baseline="average"),
    "sfe+": functools.partial(ScoreFunction, baseline="self-critic"),
    "rloo": functools.partial(ScoreFunction, baseline="leave-one-out", samples=2),
    "nvil": NVIL,
    "gumbel": GumbelSoftmax,
    "st-gumbel": functools.partial(GumbelSoftmax, hard=True),
    "sum-and-sample": SumAndSample,
    "vimco": VIMCO,
    "disarm": DisARM,
    "perturb-and-map": PerturbAndMAP,
    "imle": IMLE,
}


def get(name: str) -> Callable[..., Estimator]:
    """What makes the estimator of this name: ``get(name)(structure, ...)``.

    All take ``vertices`` and ``generator``, as :class:`Estimator`; the other settings are each one's own.

    Raises
    ------
    ArgumentError
        There is none; the text lists all names.
    """
    check_choice("name", name, ESTIMATORS)
    return ESTIMATORS[name]


__all__ = [
    "ESTIMATORS",
    "IMLE",
    "NVIL",
    "VIMCO",
    "DisARM",
    "Estimate",
    "Estimator",
    "Exact",
    "GumbelSoftmax",
    "PerturbAndMAP",
    "ScoreFunction",
    "SumAndSample",
    "get",
]
