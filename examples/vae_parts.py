"""The likelihood of grey levels under a linear layer that all pixels share, without ever holding its logits.

An image of 784 pixels with 256 levels has 200,704 logits: held for the supports of a whole batch, at several copies,
they take gigabytes, and the way to memory and back takes longer than the arithmetic. They are functions of 5 numbers a
pixel, though. On the CPU a compiled loop goes through the pixels one by one, whose 256 logits stay in the fastest
cache, and computes the gradient in the same pass. Elsewhere, and for other dtypes, torch goes through a few rows at a
time and computes their logits again in the backward pass.

    python examples/vae_parts.py

times the ways of :func:`log_likelihood` side by side.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from jsonargparse import auto_cli
from options import Settings
from results import machine, versions
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.benchmark import Timer
from torch.utils.checkpoint import checkpoint

Floats = npt.NDArray[np.float32]


def log_likelihood(
    features: Tensor, weight: Tensor, bias: Tensor, levels: Tensor, implementation: str = "auto"
) -> Tensor:
    """Log-probability of images whose pixels are independent categoricals, logits = weight @ feature + bias.

    Parameters
    ----------
    features : Tensor [N, pixels, C]
    weight : Tensor [V, C]
    bias : Tensor [V]
    levels : Tensor [N, pixels]
        Grey levels, whole numbers from 0 to V - 1, uint8 or int64.
    implementation : {"auto", "compiled", "chunked", "naive"}
        "compiled" is for float32 on the CPU, and has first derivatives only; "chunked" goes through a few images at a
        time, on an accelerator through more; "naive" holds all logits at once and is there to be compared. "auto":
        compiled where that is possible, else chunked.

    Returns
    -------
    Tensor
        [N], in nats.
    """
    if implementation == "auto":
        fits = features.device.type == "cpu" and features.dtype == torch.float32
        implementation = "compiled" if fits else "chunked"
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (features, weight, bias))
    if implementation == "naive":
        return _naive(features, weight, bias, levels)
    if implementation == "chunked":
        rows = 2 if features.device.type == "cpu" else 256  # what a cache holds; what keeps an accelerator busy
        chunks = zip(features.split(rows), levels.split(rows), strict=True)
        parts = [
            checkpoint(_naive, x, weight, bias, level, use_reentrant=False, preserve_rng_state=False)
            if wanted
            else _naive(x, weight, bias, level)
            for x, level in chunks
        ]
        return torch.cat(parts) if parts else features.new_zeros(0)
    out: Tensor = _Compiled.apply(features, weight, bias, levels, wanted)
    return out


def _naive(features: Tensor, weight: Tensor, bias: Tensor, levels: Tensor) -> Tensor:
    logits = F.linear(features, weight, bias).flatten(0, 1)
    loss = F.cross_entropy(logits, levels.long().flatten(), reduction="none")
    return -loss.view(levels.shape).sum(-1)


class _Compiled(torch.autograd.Function):
    """The compiled pass. Gradients of each row are computed with it, for every row has but one number to scale them."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, levels: Tensor, wanted: bool) -> Tensor:
        n, (v, c) = len(features), weight.shape
        out = features.new_empty(n)
        slopes = (
            (torch.empty_like(features, memory_format=torch.contiguous_format), features.new_zeros(n, c + 1, v))
            if wanted
            else (features.new_empty(0, 0, 0), features.new_empty(0, 0, 0))
        )
        # the bias is the weight of a feature that is always 1
        table = torch.cat([weight.detach().T, bias.detach().unsqueeze(0)])
        read: list[Any] = [x.detach().contiguous().numpy() for x in (features, table, levels)]
        written: list[Any] = [x.numpy() for x in (out, *slopes)]
        _pixel_by_pixel(read[0], read[1], read[2], written[0], written[1], written[2], wanted)
        ctx.save_for_backward(*slopes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        features, table = ctx.saved_tensors
        total = torch.mv(table.flatten(1).T, grad).view(table.shape[1:])
        return features * grad[:, None, None], total[:-1].T, total[-1], None, None


# Coefficients of e^r = 1 + r + r^2 / 2 + ..., for |r| <= log(2) / 2 exact to the last digits of float32.
_ONE, _C2, _C3, _C4, _C5, _C6 = (np.float32(1 / math.factorial(i)) for i in (1, 2, 3, 4, 5, 6))
_LOG2E, _LN2 = np.float32(1 / math.log(2)), np.float32(math.log(2))
_LEAST = np.float32(-86)  # where e^x is about to leave the normal float32


@numba.njit(nogil=True, cache=True, fastmath=True)
def _pixel_by_pixel(
    features: Floats,
    table: Floats,
    levels: npt.NDArray[Any],
    out: Floats,
    features_slope: Floats,
    table_slope: Floats,
    wanted: bool,
) -> None:
    """Fill ``out`` [N], and the derivatives of each row by its features and by the table [C + 1, V]."""
    rows, pixels, c = features.shape
    v = table.shape[1]
    logit, power = np.empty(v, np.float32), np.empty(v, np.int32)
    scale = power.view(np.float32)
    for n in range(rows):
        total = 0.0
        for pixel in range(pixels):
            level = levels[n, pixel]
            for j in range(v):
                logit[j] = table[c, j]
            for i in range(c):
                x = features[n, pixel, i]
                for j in range(v):
                    logit[j] += x * table[i, j]
            most = logit[0]
            for j in range(v):
                most = max(most, logit[j])
            chosen = logit[level]
            # e^x as 2^k e^r, written so that it becomes vector instructions, which math.exp does not
            for j in range(v):
                y = max(logit[j] - most, _LEAST) * _LOG2E
                k = np.rint(y)
                r = (y - k) * _LN2
                logit[j] = _ONE + r * (_ONE + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))))
                power[j] = np.int32((np.int32(k) + np.int32(127)) << np.int32(23))
            mass = np.float32(0)
            for j in range(v):
                logit[j] *= scale[j]
                mass += logit[j]
            total += chosen - most - math.log(mass)
            if wanted:
                inverse = _ONE / mass
                for j in range(v):
                    logit[j] *= inverse
                    table_slope[n, c, j] -= logit[j]
                table_slope[n, c, level] += _ONE
                for i in range(c):
                    x = features[n, pixel, i]
                    mean = np.float32(0)
                    for j in range(v):
                        mean += logit[j] * table[i, j]
                        table_slope[n, i, j] -= x * logit[j]
                    features_slope[n, pixel, i] = table[i, level] - mean
                    table_slope[n, i, level] += x
        out[n] = total


def compare(rows: int = 64, seconds: float = 10.0, out: str = "out/grey_likelihood.json") -> None:
    """Time forward and backward of images of 784 pixels with 256 levels, on one thread, each way in turn.

    Parameters
    ----------
    rows
        how many images
    seconds
        to spend on each way
    out
        the JSON file
    """
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, 784, 5), (256, 5), (256,))
    features, weight, bias = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    levels = torch.randint(256, (rows, 784), dtype=torch.uint8, generator=generator)

    def both(implementation: str) -> None:
        value = log_likelihood(features, weight, bias, levels, implementation=implementation)
        torch.autograd.grad(value.sum(), (features, weight, bias))

    ways = ("naive", "chunked", "compiled")
    timers = {way: Timer("both(way)", globals={"both": both, "way": way}) for way in ways}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(5):  # in turn, so that whatever else the machine does meets all of them
        for way in ways:
            times[way] += timers[way].blocked_autorange(min_run_time=seconds / 5).times
    milliseconds = {way: [float(1e3 * x) for x in np.quantile(times[way], (0.25, 0.5, 0.75))] for way in ways}
    for way in ways:
        print(f"{way:>8}: {milliseconds[way][1]:6.1f} ms")
    line = {
        "what": "log-likelihood of grey levels, forward and backward; quartiles in milliseconds",
        "rows": rows,
        "milliseconds": milliseconds,
        "command": f"python examples/vae_parts.py --rows {rows} --seconds {seconds:g}",
        "versions": versions(),
        "machine": {**machine(Settings()), "load": os.getloadavg()[0]},
    }
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(line) + "\n")


if __name__ == "__main__":
    auto_cli(compare)
