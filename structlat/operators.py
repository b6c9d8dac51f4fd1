"""Steps that torch cannot look into, as torch operators: what has to read values, or asks an oracle on the host.

A transform (``torch.func``, ``torch.compile``) traces everything else and calls these as they are. They see detached
tensors, have no derivative, and take the batch as a whole: under ``vmap`` the mapped dimension joins the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from structlat.errors import ArgumentError, InfeasibleError, rows_text

ERRORS = {error.__name__: error for error in (ArgumentError, InfeasibleError)}


def transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work: any derivative may then be asked for, by ways unseen here."""
    return torch._C._functorch.maybe_current_level() is not None


def traced() -> bool:
    """Whether values may not be looked at: a compiler or a transform is at work."""
    return torch.compiler.is_compiling() or transformed()


def in_inference_mode() -> bool:
    """Whether tensors that are made now can never be in a graph; not while a compiler is at work, which cannot ask."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def as_made(inference: bool) -> AbstractContextManager[Any]:
    """Compute what is kept as where its owner was made, in inference mode or out of it, whoever reads it first."""
    return torch.inference_mode(inference) if in_inference_mode() != inference else nullcontext()


def operator(name: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function of a flat batch the operator ``structlat::name``.

    Every tensor that goes in is [B, ...], or, but for the first, [1, ...] where all rows share it; every tensor that
    comes out is [B, ...]. An argument ``batch_shape`` says which shape the rows have for the caller; under ``vmap`` it
    grows. ``fake`` tells a tracer the shapes and dtypes of what comes out.
    """

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        made = torch.library.custom_op(f"structlat::{name}", _owned(fn), mutates_args=())
        made.register_fake(fake)
        names = [argument.name for argument in made._opoverload._schema.arguments]

        def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
            width = info.batch_size
            tensors = [
                x.movedim(dim, 0) if dim is not None else x
                for arg, dims in zip(args, in_dims, strict=True)
                for x, dim in _pairs(arg, dims)
            ]
            mapped = [dim is not None for arg, dims in zip(args, in_dims, strict=True) for _, dim in _pairs(arg, dims)]
            rows = tensors[0].shape[int(mapped[0])]
            flat = iter(_join(x, is_mapped, width, rows) for x, is_mapped in zip(tensors, mapped, strict=True))
            joined = [
                next(flat)
                if isinstance(arg, Tensor)
                else [next(flat) for _ in arg]
                if isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Tensor)
                else arg
                for arg in args
            ]
            if "batch_shape" in names:
                at = names.index("batch_shape")
                joined[at] = [width, *joined[at]]
            out = made(*joined)
            if isinstance(out, Tensor):
                return out.reshape(width, rows, *out.shape[1:]), 0
            return tuple(x.reshape(width, rows, *x.shape[1:]) for x in out), (0,) * len(out)

        made.register_vmap(vmap)
        return _in_its_place(made, fn)

    return decorate


def unbatched(name: str, fake: Callable[..., Any], why: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the operator ``structlat::name`` that under ``vmap`` raises RuntimeError, with ``why``."""

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        made = torch.library.custom_op(f"structlat::{name}", _owned(fn), mutates_args=())
        made.register_fake(fake)

        def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
            raise RuntimeError(why)

        made.register_vmap(vmap)
        return _in_its_place(made, fn)

    return decorate


def _owned(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` with answers in memory of their own, as a compiler wants them: it may write over them."""

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        out = fn(*args)
        if isinstance(out, Tensor):
            return out.clone(memory_format=torch.contiguous_format)
        return tuple(x.clone(memory_format=torch.contiguous_format) for x in out)

    return call


def _in_its_place(made: Callable[..., Any], fn: Callable[..., Any]) -> Callable[..., Any]:
    """The operator where something traces, the function itself elsewhere: a user's oracle may then use autograd."""

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        if traced():
            return made(*args)
        with torch.no_grad():
            return fn(*args)

    return call


def _pairs(arg: Any, dims: Any) -> list[tuple[Tensor, int | None]]:
    """The tensors of one argument with the dimension that each is mapped over."""
    if isinstance(arg, Tensor):
        return [(arg, dims)]
    if isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Tensor):
        return list(zip(arg, dims if isinstance(dims, Sequence) else [dims] * len(arg), strict=True))
    return []


def _join(x: Tensor, is_mapped: bool, width: int, rows: int) -> Tensor:
    """[width, B or 1, ...], or [B or 1, ...] for all of the width, as one batch; what all rows share stays one row."""
    if not is_mapped:
        if x.shape[0] == 1 and rows != 1:
            return x
        x = x.expand(width, *x.shape)
    return x.expand(width, rows, *x.shape[2:]).reshape(width * rows, *x.shape[2:])


def _raise_if(bad: Tensor, error: type[ArgumentError], text: str) -> None:
    if bool(bad.any()):
        raise error(text.replace("{rows}", rows_text(bad)))


@torch.library.custom_op("structlat::refuse", mutates_args=())
def _refuse(bad: Tensor, error: str, text: str) -> Tensor:
    _raise_if(bad, ERRORS[error], text)
    return torch.zeros(bad.shape, dtype=torch.float64, device=bad.device)


@_refuse.register_fake
def _(bad: Tensor, error: str, text: str) -> Tensor:
    return bad.new_empty(bad.shape, dtype=torch.float64)


@_refuse.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], bad: Tensor, error: str, text: str) -> tuple[Tensor, int]:
    return _refuse(bad.movedim(in_dims[0], 0), error, text), 0


def guard(x: Tensor, bad: Tensor, error: type[ArgumentError], text: str) -> Tensor:
    """``x`` [*batch, ...] where no row of ``bad`` [*batch] is True.

    Elsewhere ``error`` is raised, ``{rows}`` in its ``text`` replaced by words for the bad rows. The answer has to be
    used instead of ``x``: a tracer drops an operator whose result nobody needs.
    """
    if not traced():
        _raise_if(bad, error, text)
        return x
    zero: Tensor = _refuse(bad, error.__name__, text)
    return x + zero.to(x.dtype).reshape(zero.shape + (1,) * (x.ndim - zero.ndim))
