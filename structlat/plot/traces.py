"""Pictures of what solvers did: gap and support size by iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from structlat.distribution import SparseDistribution
from structlat.errors import ArgumentError
from structlat.plot.backend import pyplot
from structlat.solvers.info import SolverInfo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FLOOR = 1e-17  # where a gap of 0 is drawn
FAR_APART = 10  # from this ratio of the iterations on their axis is logarithmic, so that no curve is a mere stroke


def trace(
    infos: Mapping[str, SolverInfo | SparseDistribution], row: int | None = None, axes: Sequence[Axes] | None = None
) -> Figure | SubFigure:
    """Draw the duality gap by iteration of several solvers on one logarithmic axis, and the support size below it.

    A curve is the median over the rows of the batch, a finished row counting with what it ended with; a light band
    spans the quartiles. A dot marks the iteration at which half of the rows had converged, at the gap of the answers
    themselves: the corrective step at the end may have left far less than the last iteration. A curve ends in a cross
    where some rows never converged.

    Parameters
    ----------
    infos : mapping of names to SparseDistribution or SolverInfo
        Answers of ``sparsemap(..., trace=True)``, each drawn under its name.
    row : int, optional
        Only this row of each flattened batch.
    axes : sequence of one or two matplotlib Axes, optional
        The gap is drawn on the first, the support size on the second. Default: those of a new figure.

    Returns
    -------
    matplotlib Figure, or SubFigure
        The one the axes belong to.

    Raises
    ------
    ArgumentError
        Answers without a trace, or a ``row`` or ``axes`` that does not fit.
    """
    if not isinstance(infos, Mapping) or not infos:
        came = "an empty mapping" if isinstance(infos, Mapping) else type(infos).__name__
        raise ArgumentError(f"infos: got {came}; expected a mapping of names to answers of sparsemap(..., trace=True)")
    curves = {name: _curves(name, info, row) for name, info in infos.items()}
    if axes is None:
        figure = pyplot().figure(figsize=(6.4, 5.2), layout="constrained")
        axes = list(figure.subplots(2, 1, sharex=True, height_ratios=(2, 1)))
    if not 1 <= len(axes) <= 2:
        raise ArgumentError(
            f"axes: got {len(axes)}; expected one, for the gap, or two, the second for the support size"
        )
    for name, drawn in curves.items():
        _draw(axes[0], name, drawn.gap, drawn.marks, drawn.answer)
        if len(axes) == 2:
            _draw(axes[1], name, drawn.size, drawn.marks)
    lengths = [drawn.gap.shape[1] for drawn in curves.values()]
    for ax in axes:
        if max(lengths) >= FAR_APART * min(lengths):
            ax.set_xscale("log")
        ax.grid(visible=True, alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    axes[0].set_ylabel("duality gap")
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("iteration")
    if len(axes) == 2:
        axes[1].set_ylabel("support size")
        axes[1].set_ylim(bottom=0)
    return axes[0].figure


class _Curves(NamedTuple):
    """Over the rows drawn: quartiles [3, iterations] of gap and support size, marks by iteration, the answers' gap."""

    gap: Tensor
    size: Tensor
    marks: dict[int, str]
    answer: float


def _curves(name: str, info: SolverInfo | SparseDistribution, row: int | None) -> _Curves:
    label = f"infos[{name!r}]"
    if isinstance(info, SparseDistribution):
        info = info.info
    if not isinstance(info, SolverInfo):
        raise ArgumentError(f"{label}: got {type(info).__name__}; expected a SparseDistribution or its info")
    if info.trace is None:
        raise ArgumentError(
            f"{label}: has no trace; pass trace=True to sparsemap, and a solver that iterates (a closed form does not)"
        )
    rows = info.converged.numel()
    if row is not None and (isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < rows):
        raise ArgumentError(
            f"row: got {row!r}; expected one of the {rows} rows of the flattened batch of {label}, counted from 0"
        )
    gap, size = (x.detach().cpu().to(torch.float64).reshape(len(x), rows) for x in info.trace)
    if not gap.numel():
        raise ArgumentError(f"{label}: its trace is empty; expected a batch of at least one row")
    kept = slice(None) if row is None else slice(row, row + 1)
    converged = info.converged.detach().cpu().reshape(rows)[kept]
    done = (~torch.isnan(gap[:, kept])).sum(0)  # iterations of each row
    end = int(done.max())
    gap, size = (_carried_on(x[:end, kept], done) for x in (gap, size))
    marks = {} if bool(converged.all()) else {end: "X"}
    half = -(-len(done) // 2)
    if int(converged.sum()) >= half:
        marks[int(done[converged].sort().values[half - 1])] = "o"
    at = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, device="cpu")
    answer = info.gap.detach().cpu().to(torch.float64).reshape(rows)[kept].clamp(min=FLOOR).quantile(0.5)
    return _Curves(gap.clamp(min=FLOOR).quantile(at, dim=1), size.quantile(at, dim=1), marks, float(answer))


def _carried_on(x: Tensor, done: Tensor) -> Tensor:
    """Values x [iterations, rows], each row staying at what it had when it was ``done`` [rows]."""
    at = torch.arange(len(x), device=x.device).unsqueeze(1)
    return x.gather(0, torch.minimum(at, done - 1))


def _draw(ax: Axes, name: str, quartiles: Tensor, marks: dict[int, str], answer: float | None = None) -> None:
    low, middle, high = (x.numpy() for x in quartiles)
    iteration = torch.arange(1, len(middle) + 1, device="cpu").numpy()
    (line,) = ax.plot(iteration, middle, label=name, linewidth=1.5)
    color = line.get_color()
    ax.fill_between(iteration, low, high, color=color, alpha=0.15, linewidth=0)
    for at, mark in marks.items():
        y = float(middle[at - 1])
        if mark == "o" and answer is not None:
            ax.plot([at, at], [y, answer], ":", color=color, linewidth=1)
            y = answer
        ax.plot([at], [y], mark, color=color, markersize=6)
