"""What structlat raises and warns, how it words which rows are meant, and the checks of plain numbers and words."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import SupportsIndex

import torch
from torch import Tensor


class ArgumentError(ValueError):
    """An argument is not what was expected; the text names it, says what came and what was expected."""


class InfeasibleError(ArgumentError):
    """No structure is left in some rows: every one of them uses a part whose score is -inf."""


class NonConvergenceWarning(UserWarning):
    """A solver stopped before its certificate; raised as an error with ``on_failure="raise"``."""


def rows_text(bad: Tensor) -> str:
    """Words for the rows of a batch that are True in ``bad`` [*batch], as a person would index them."""
    if bad.ndim == 0:
        return "the only row (there is no batch dimension)"
    where = torch.nonzero(bad).tolist()
    shown = [str(index[0] if len(index) == 1 else tuple(index)) for index in where[:8]]
    more = f" and {len(where) - 8} more" if len(where) > 8 else ""
    noun = "row" if len(where) == 1 else "rows"
    return f"{noun} {', '.join(shown)}{more} ({len(where)} of {bad.numel()})"


def check_count(name: str, value: SupportsIndex, least: int = 1) -> int:
    """Check a whole number with a lower bound, such as ``k`` or the size of a space."""
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None or count < least:
        raise ArgumentError(f"{name}: got {value!r}; expected a whole number of at least {least}")
    return count


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Check an option that is one of a few words."""
    if value not in choices:
        raise ArgumentError(f"{name}: got {value!r}; expected one of {', '.join(map(repr, choices))}")
