"""What structlat raises and warns, and how it words which rows are meant. Nothing here computes."""

from __future__ import annotations

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
