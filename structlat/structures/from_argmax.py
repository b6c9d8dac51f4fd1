"""FromArgmax: any function that finds a best 0/1 array, made a Structure."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structlat.errors import ArgumentError
from structlat.structure import Structure


class FromArgmax(Structure):
    """The space whose MAP oracle is ``fn``: scores in, 0/1 array of the same shape out.

    Parameters
    ----------
    fn : callable
        Maximises. Gets the scores of one example as a float64 NumPy array [*shape], or as a torch tensor where its
        first parameter is annotated so. Returns whatever ``np.asarray`` takes, 0 and 1; None or a ValueError mean that
        nothing is feasible. -inf comes to it as a number so low that no feasible structure would use it.
    shape : tuple of int, or one int
        Shape of the scores, and of what ``fn`` returns.
    batched : bool
        ``fn`` takes and returns [B, *shape], as a torch tensor unless it is annotated as a NumPy array.
    """

    def __init__(self, fn: Callable[..., Any], shape: tuple[int, ...] | int, batched: bool = False) -> None:
        if not callable(fn):
            raise ArgumentError(f"fn: got {type(fn).__name__}; expected a function from scores to a 0/1 array")
        self.fn = fn
        self.shape = torch.Size([shape]) if isinstance(shape, int) else torch.Size(shape)
        self.batched = batched
        annotation = _first_annotation(fn)
        tensor = annotation is Tensor or Tensor in typing.get_args(annotation)
        array = annotation is np.ndarray or typing.get_origin(annotation) is np.ndarray
        self._gets_tensor = tensor or (batched and not array)

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """Ask ``fn``; rows for which it returns None come back as NaN, which no caller takes for a structure."""
        finite = _without_inf(scores, len(self.shape))
        if self.batched:
            return self._array(self._call(finite), tuple(scores.shape))
        rows = [self._one(row) for row in finite]
        return torch.stack(rows).to(scores.device) if rows else torch.zeros_like(scores)

    def _one(self, scores: Tensor) -> Tensor:
        z = self._call(scores)
        if z is None:
            return torch.full(self.shape, torch.nan, dtype=torch.float64)
        return self._array(z, tuple(self.shape))

    def _call(self, scores: Tensor) -> Any:
        return self.fn(scores if self._gets_tensor else scores.cpu().numpy())

    def _array(self, z: Any, shape: tuple[int, ...]) -> Tensor:
        if z is None:
            raise ValueError("nothing is feasible")
        array = z.detach().cpu().numpy() if isinstance(z, Tensor) else np.asarray(z)
        if array.shape != shape:
            raise ArgumentError(f"fn: returned an array of shape {array.shape}; expected {shape}")
        return torch.from_numpy(np.array(array, dtype=np.float64))

    def __repr__(self) -> str:
        return f"FromArgmax({getattr(self.fn, '__name__', self.fn)}, shape={tuple(self.shape)})"


def _without_inf(scores: Tensor, event_ndim: int) -> Tensor:
    """Replace -inf by a number below which no sum of the finite scores of the row can fall."""
    forbidden = torch.isneginf(scores)
    finite = torch.where(forbidden, 0, scores)
    total = finite.abs().flatten(start_dim=scores.ndim - event_ndim).sum(-1) if event_ndim else finite.abs()
    low = -(2 * total + 1).reshape(total.shape + (1,) * (scores.ndim - total.ndim))
    return torch.where(forbidden, low, finite)


def _first_annotation(fn: Callable[..., Any]) -> Any:
    """The type of the first parameter, or None; an annotation that cannot be read is no annotation."""
    try:
        annotation = next(iter(inspect.signature(fn).parameters.values())).annotation
        if isinstance(annotation, str):
            annotation = eval(annotation, getattr(inspect.unwrap(fn), "__globals__", {}))
    except (TypeError, ValueError, NameError, AttributeError, StopIteration):
        return None
    return annotation
