"""Structure: what a latent space must bring, and what it gets in return.

A subclass defines ``shape`` and ``argmax``; everything else has a default that needs nothing more (Lawler's partition,
see ``lawler.py``). Spaces that are built in override the defaults with the fast algorithm of their field.
"""

from __future__ import annotations

import abc
import inspect
import typing
import uuid
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oracles.compiled import Compiled
from structlat import lawler
from structlat.closed_form import ClosedForm
from structlat.errors import ArgumentError

ENUMERATION_LIMIT = 2**16


_ALIVE: weakref.WeakValueDictionary[str, Structure] = weakref.WeakValueDictionary()


def structure_of(handle: str) -> Structure:
    """The structure that goes by this handle: how an operator, which takes tensors and text, is told its structure."""
    try:
        return _ALIVE[handle]
    except KeyError:
        raise RuntimeError(f"no structure goes by the handle {handle!r}: was it deleted after a trace?") from None


class _SameAsScores:
    """``event_shape`` of a space that sets none, on the class or on the object."""

    def __get__(self, structure: Structure, owner: type) -> torch.Size:
        return torch.Size(structure.shape)


class Structure(abc.ABC):
    """A finite set Z of structures z, through its oracles. A subclass needs no ``__init__`` and no ``super()`` call.

    Attributes
    ----------
    shape : torch.Size
        Shape of the scores of one example: one number a part that the quadratic term of SparseMAP regularises.
    extra_shapes : tuple of torch.Size
        Shapes of further scores, for parts that are not regularised (the transitions of a chain).
    own_extra : tuple of Tensor
        Extra scores that the space brings itself, [*batch, *extra_shape] each, for the last of ``extra_shapes``: by
        them a space may differ by row (a budget a row). Callers leave them out, and see no marginals of theirs; oracles
        get them like any others. ``enumerate``, ``cardinality`` and ``contains`` are about the union over the rows.
    event_shape, event_dtype : torch.Size, torch.dtype or None
        Of one structure z. By default ``shape``, and None: the scores' dtype, with 0. and 1.
    symmetric : bool
        Being off is regularised like being on: gamma/2 (|mu|^2 + |1 - mu|^2), the paper's encoding of bits.
    antichain : bool
        No vertex contains another (as in chains and matchings; of one row, where there is ``own_extra``). Where it
        holds, saying so saves oracle calls.
    intractable : str
        Why ``log_partition``, ``marginals`` and ``sample`` are not there, for their error. Spaces in which they are
        tractable are :class:`structlat.tractable.Tractable`.
    """

    shape: torch.Size
    extra_shapes: tuple[torch.Size, ...] = ()
    own_extra: tuple[Tensor, ...] = ()
    event_shape: torch.Size = _SameAsScores()  # type: ignore[assignment]
    event_dtype: torch.dtype | None = None
    symmetric: bool = False
    antichain: bool = False
    intractable: str = "it brings no algorithm for it"

    @abc.abstractmethod
    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """MAP: a structure of highest score for each row. The only method that a new space must define.

        Takes ``scores`` [B, *shape] and ``extra`` [B, *extra_shape], float64, -inf where a part is forbidden; returns
        z [B, *event_shape]. Equal scores are broken in a fixed order. For a row in which nothing is feasible it may
        return anything or raise ValueError: the caller checks.
        """

    def vertex(self, z: Tensor) -> Tensor:
        """The 0/1 vector a_z [..., *shape] of z [..., *event_shape].

        Two structures never share one together with their extra parts. Where they share one and differ in extra parts,
        a space has to bring its own ``topk``, ``enumerate`` and ``contains``: the defaults tell structures by vertex.
        """
        return z

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """Score <a_z, scores> (+ <n_z, extra>) of z; all batch dimensions broadcast. -inf where a forbidden part is
        used.

        Differentiable in scores and extra. A space with ``extra`` overrides it.
        """
        if extra:
            raise NotImplementedError(
                f"{type(self).__name__} has extra scores: its `score` must say what they add for a structure"
            )
        a = self.vertex(z)
        # selected, not multiplied: 0 * -inf is NaN
        used = torch.where(a > 0, scores, 0)
        return used.flatten(start_dim=-len(self.shape)).sum(-1) if self.shape else used

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best structures of each row, best first.

        Takes what ``argmax`` takes. Returns z [B, k, *event_shape] and ``valid`` [B, k] bool, False where a row has
        fewer than k feasible structures; z repeats the row's first there.
        """
        return lawler.topk(self, scores, extra, k)

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every structure, z [|Z|, *event_shape], in a fixed order.

        Raises
        ------
        ArgumentError
            There are more than ``limit``; the text says how many, or "more than".
        """
        return lawler.enumerate_all(self, limit)

    def cardinality(self) -> int:
        """|Z|, exact. The default counts by enumeration, and refuses where :meth:`enumerate` does."""
        return len(self.enumerate())

    def contains(self, z: Tensor) -> Tensor:
        """Whether z [..., *event_shape] is a structure of this space: [...] bool."""
        return lawler.contains(self, z)

    def closed_form(self, scores: Tensor, *extra: Tensor) -> ClosedForm | None:
        """SparseMAP at gamma = 1 without iteration, where the space has it. None, the default: it has not."""
        return None

    def compiled(self) -> Compiled | None:
        """The oracle as C functions, if it is compiled: solvers then leave Python once a batch and not once a round."""
        return None

    def log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The log-partition log sum_z exp(score(z)), [*batch]: see :class:`structlat.tractable.Tractable`."""
        raise self._refusal("log_partition")

    def marginals(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """E[a_z] under softmax over all structures, [*batch, *shape], where it is tractable."""
        raise self._refusal("marginals")

    def sample(
        self,
        scores: Tensor,
        *extra: Tensor,
        shape: torch.Size | tuple[int, ...] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw z [*shape, *batch, *event_shape] from softmax over all structures, where it is tractable."""
        raise self._refusal("sample")

    def _refusal(self, asked: str) -> NotImplementedError:
        return NotImplementedError(
            f"{asked}: {self!r} has none, for {self.intractable}. marginalize enumerates a small space, sparsemap and "
            "topk_sparsemax need no sum over all structures, and perturb_and_map draws samples through argmax alone"
        )

    @cached_property
    def _every(self) -> Tensor:
        """Every structure, enumerated once: training loops ask for it at each step."""
        # an evaluation may ask first: its tensors could not be in a graph
        with torch.inference_mode(False), torch.no_grad():
            return self.enumerate()

    def __new__(cls, *args: Any, **kwargs: Any) -> Structure:
        """Give the structure its handle; nothing of it is left to subclasses."""
        self = super().__new__(cls)
        self._name_it()
        return self

    def _name_it(self) -> str:
        self.__dict__["_handle"] = handle = uuid.uuid4().hex
        _ALIVE[handle] = self
        return handle

    @property
    def handle(self) -> str:
        """A name for this object among all of them everywhere; :func:`structure_of` is the way back."""
        handle: str | None = self.__dict__.get("_handle")
        return self._name_it() if handle is None else handle

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: without the handle, and without what was computed to be kept."""
        kept = {name for cls in type(self).__mro__ for name, x in vars(cls).items() if isinstance(x, cached_property)}
        return {name: value for name, value in self.__dict__.items() if name not in kept | {"_handle"}}

    def __repr__(self) -> str:
        """The same for every run: errors and tables show it."""
        shape = getattr(self, "shape", None)
        return f"{type(self).__name__}(shape={None if shape is None else tuple(shape)})"

    @staticmethod
    def from_argmax(fn: Callable[..., Any], shape: tuple[int, ...] | int, batched: bool = False) -> Structure:
        """Make a structure from any function that maximises; see :class:`FromArgmax`."""
        return FromArgmax(fn, shape, batched)


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
            return self._array(self._call(finite), tuple(scores.shape)).to(scores.device)
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
    except (TypeError, ValueError, NameError, AttributeError, SyntaxError, StopIteration):
        return None
    return annotation
