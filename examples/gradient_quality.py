"""How good are the gradients? Bias and variance of every estimator, beside how often it asks for the loss.

    python examples/gradient_quality.py

Four spaces, small enough to enumerate, so that the exact gradient is known. On each, eight examples with random scores
are the encoder's answer, and a fixed random network is the decoder: the loss of a structure is the squared distance of
what the network makes of it from what it makes of the example's own structure. Each estimator gives a few thousand
independent estimates of the gradient in the scores (and extra scores) of all eight, at several numbers of samples.

What an estimate is held against:

- for ``sfe``, ``sfe+``, ``rloo``, ``nvil``, ``sum-and-sample`` and ``disarm``, the gradient of E[loss] under softmax;
  it is what they estimate, and they are unbiased;
- for ``gumbel``, ``st-gumbel``, ``perturb-and-map``, ``imle`` and ``vimco`` the same, though they follow another one
  (of relaxed structures, of another law, of a bound): that is their bias;
- for those that sum over a support (``softmax``, ``sparsemax``, ``topk``, ``sparsemap``, ``sparsemap-budget``), the
  slope of their own E[loss], by differences: sparse distributions are no estimates of softmax.

Baselines are made ready before: the running average by some steps, the network of ``nvil`` by training it.
"""

from __future__ import annotations

import functools
import json
import math
import platform
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from files import write_whole
from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveInt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

import structlat as sl
from structlat import estimators
from structlat.estimators import ESTIMATORS, Estimator

EXAMPLES = 8
HIDDEN, OUT = 16, 6  # of the decoder
ROWS_AT_ONCE = 2**17  # structures
SPACES: dict[str, sl.Structure] = {
    "one of 16": sl.Categorical(16),
    "6 bits": sl.BitVector(6),
    "at most 3 of 6 bits": sl.BudgetBitVector(6, 3),
    "chain of 4, 3 labels": sl.LinearChain(4, 3),
}
BASELINE = "sum-and-sample, baseline"  # beside all names: what that one is with the baseline it has for nothing
NAMES = [name for x in ESTIMATORS for name in ([x, BASELINE] if x == "sum-and-sample" else [x])]
# the option by which each takes more structures, and its values; where there is none, a single setting
MORE: dict[str, tuple[str, tuple[int, ...]]] = {
    "topk": ("k", (2, 4, 8, 16)),
    "sum-and-sample": ("k", (1, 3, 7, 15)),
    BASELINE: ("k", (1, 3, 7, 15)),
    "sfe": ("samples", (1, 2, 4, 8, 16)),
    "sfe+": ("samples", (1, 2, 4, 8)),
    "rloo": ("samples", (2, 4, 8, 16)),
    "nvil": ("samples", (1, 2, 4, 8, 16)),
    "vimco": ("samples", (2, 4, 8, 16)),
    "disarm": ("pairs", (1, 2, 4, 8)),
    "gumbel": ("samples", (1, 2, 4, 8, 16)),
    "st-gumbel": ("samples", (1, 2, 4, 8, 16)),
    "perturb-and-map": ("samples", (1, 3, 7, 15)),
    "imle": ("samples", (1, 2, 4, 8, 16)),
}
EXACT = ("softmax", "sparsemax", "topk", "sparsemap", "sparsemap-budget")


# ---- Problems whose gradient is known. -------------------------------------------------------------------------------


class Problem:
    """Eight examples of a space: scores [8, *shape], extra scores, and a loss of vertices."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.structure = name, SPACES[name]
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        shapes = (self.structure.shape, *self.structure.extra_shapes)
        self.inputs = [normal(EXAMPLES, *shape) for shape in shapes]
        parts = self.structure.shape.numel()
        self.first, self.second = normal(parts, HIDDEN) / 2, normal(HIDDEN, OUT) / HIDDEN**0.5
        every = self.structure.enumerate()
        own = every[torch.randint(len(every), (EXAMPLES,), generator=generator)]
        self.target = self.decode(self.structure.vertex(own).double())

    def decode(self, a: Tensor) -> Tensor:
        """What the decoder makes of vertices [N, *shape], [N, 6]."""
        out: Tensor = (a.flatten(start_dim=1) @ self.first).tanh() @ self.second
        return out

    def loss(self, a: Tensor, i: Tensor) -> Tensor:
        """Squared distances [N] from the targets of the examples; rows are copies of the eight."""
        return (self.decode(a) - self.target[i % EXAMPLES]).square().sum(-1)

    def copies(self, count: int) -> list[Tensor]:
        """``count`` copies of all inputs, [count, 8, ...], that have derivatives."""
        return [x.expand(count, *x.shape).clone().requires_grad_() for x in self.inputs]

    def exact(self) -> Tensor:
        """The gradient of E[loss] under softmax, by enumeration, all numbers in a row."""
        inputs = [x.clone().requires_grad_() for x in self.inputs]
        every = self.structure.enumerate()
        q: Tensor = self.structure.score(every.unsqueeze(1), *inputs).softmax(0)
        a = self.structure.vertex(every).double().repeat_interleave(EXAMPLES, 0)
        losses = self.loss(a, torch.arange(len(a))).reshape(len(every), EXAMPLES)
        return joined(torch.autograd.grad((q * losses).sum(), inputs), 0)

    def differences(self, estimator: Estimator, step: float = 1e-5) -> Tensor:
        """The same for the E[loss] of an estimator that does not sample, by central differences."""
        slopes = []
        for n, x in enumerate(self.inputs):
            numbers = x[0].numel()
            moved = step * torch.eye(numbers, dtype=x.dtype).reshape(numbers, 1, *x.shape[1:])
            values = []
            for way in (1, -1):
                inputs = [y.expand(numbers, *y.shape) for y in self.inputs]
                inputs[n] = x + way * moved
                values.append(estimator(self.loss, *inputs).value)
            slopes.append(((values[0] - values[1]) / (2 * step)).T.reshape(x.shape))
        return joined(slopes, 0)


def joined(slopes: Sequence[Tensor], lead: int) -> Tensor:
    """Gradients [*lead, 8, ...] for each of the inputs in a row, [*lead, numbers]."""
    return torch.cat([x.flatten(start_dim=lead) for x in slopes], lead)


# ---- Estimates and what they are worth. ------------------------------------------------------------------------------


class Quality(NamedTuple):
    """One estimator at one setting; everything but calls relative to the norm of the exact gradient."""

    setting: dict[str, int]
    calls: float  # of the loss, for each example
    deviation: float  # root of the summed variances of all numbers, of one estimate
    bias: float  # norm of the mean's error, chance taken off
    chance: float  # what that norm is for an unbiased estimator, from so many draws
    biased: bool  # the error is far beyond chance


def measure(problem: Problem, name: str, setting: dict[str, int], settings: Settings) -> Quality:
    """Draw many estimates, and hold them against the exact gradient."""
    estimator = ready(problem, name, setting, settings.seed)
    exact = problem.differences(estimator) if name in EXACT else problem.exact()
    draws, calls = estimates(problem, estimator, 2 if name in EXACT else settings.draws)
    error, size = draws.mean(0) - exact, float(exact.norm())
    if name in EXACT:
        return Quality(setting, calls, 0.0, float(error.norm()) / size, 0.0, bool(error.norm() > 1e-6 * size))
    covariance = draws.T.cov()
    total = float(covariance.trace())
    chance, squared = math.sqrt(total / len(draws)), float(error.square().sum())
    # without a bias, the squared norm of the error has this mean and, roughly, this deviation
    beyond = squared - chance**2 - 6 * math.sqrt(2) * float(covariance.norm()) / len(draws)
    bias, biased = math.sqrt(max(squared - chance**2, 0)), beyond > 1e-12 * size**2
    return Quality(setting, calls, math.sqrt(total) / size, bias / size, chance / size, biased)


def ready(problem: Problem, name: str, setting: dict[str, int], seed: int) -> Estimator:
    """An estimator whose baseline, if it keeps one, has seen some steps of training."""
    generator = torch.Generator().manual_seed(seed)
    options = {"context_size": EXAMPLES} if name == "nvil" else {}
    estimator = maker(name)(problem.structure, vertices=True, generator=generator, **setting, **options)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.05) if list(estimator.parameters()) else None
    for _ in range(20 if name == "sfe" else 200 if optimizer else 0):
        out = estimator(problem.loss, *(x.expand(8, *x.shape) for x in problem.inputs), context=context(8))
        if optimizer:
            optimizer.zero_grad()
            out.surrogate.mean().backward()
            optimizer.step()
    return estimator.eval()


def maker(name: str) -> Callable[..., Estimator]:
    """What makes the estimator."""
    if name == BASELINE:
        return functools.partial(estimators.get("sum-and-sample"), baseline="summed")
    return estimators.get(name)


def context(count: int) -> Tensor:
    """Which of the eight examples it is, for the baseline of NVIL."""
    return torch.eye(EXAMPLES).expand(count, EXAMPLES, EXAMPLES)


def estimates(problem: Problem, estimator: Estimator, count: int) -> tuple[Tensor, float]:
    """``count`` independent estimates of the gradient, [count, numbers], and the calls for an example."""
    with torch.no_grad():
        each = float(estimator(problem.loss, *problem.inputs, context=context(1)[0]).calls.double().mean())
    width = max(1, int(ROWS_AT_ONCE / (EXAMPLES * each)))
    draws, calls = [], []
    for start in range(0, count, width):
        inputs = problem.copies(min(width, count - start))
        out = estimator(problem.loss, *inputs, context=context(len(inputs[0])))
        draws.append(joined(torch.autograd.grad(out.surrogate.sum(), inputs), 1))
        calls.append(out.calls.flatten())
    return torch.cat(draws), float(torch.cat(calls).double().mean())


class Line(NamedTuple):
    """One estimator on one problem."""

    problem: str
    estimator: str
    qualities: list[Quality]


def is_defined(name: str, structure: sl.Structure) -> bool:
    """Whether the estimator takes this space."""
    try:
        maker(name)(structure)
    except NotImplementedError:
        return False
    return True


def chosen_settings(name: str, quick: bool) -> list[dict[str, int]]:
    """The numbers of structures to ask for."""
    option, values = MORE.get(name, ("", ()))
    return [{option: value} for value in values[: 2 if quick else None]] or [{}]


# ---- What is written. ------------------------------------------------------------------------------------------------


LEGEND = (
    "loss calls: structures that the loss is asked about, mean over examples.",
    "deviation: of one estimate of the gradient; bias: error of the mean of many; relative to the exact gradient, "
    "which is that of their own E[loss] for those that sum over a support, and that under softmax for all others.",
    "none above x: not to be told from 0 where chance comes to x.",
)


def table(lines: Sequence[Line], form: Literal["simple", "github"] = "simple") -> str:
    """Every estimator at its smallest setting."""
    rows = []
    for line in lines:
        first, exact = line.qualities[0], line.estimator in EXACT
        deviation = "0" if exact else f"{first.deviation:.2f}"
        unbiased = "0" if exact else f"none above {first.chance:.3f}"
        bias = f"{first.bias:.3f}" if first.biased else unbiased
        rows.append([line.problem, line.estimator, f"{first.calls:.2f}", deviation, bias])
    headers = ["space", "estimator", "loss calls", "deviation", "bias"]
    sides = ("left", "left", "right", "right", "right")
    text: str = tabulate(rows, headers, tablefmt=form, disable_numparse=True, colalign=sides)
    return text


def page(lines: Sequence[Line]) -> str:
    """The table in Markdown, with what its columns mean."""
    return "\n".join([table(lines, "github"), "", *(f"- {text}" for text in LEGEND), ""])


def write_results(path: Path, lines: Sequence[Line], settings: Settings) -> None:
    """One JSON line an estimator and problem, with all that is needed to repeat it."""
    shared = {
        "command": f"python examples/gradient_quality.py {shlex.join(sys.argv[1:])}".strip(),
        "seed": settings.seed,
        "settings": {name: value for name, value in settings._asdict().items() if name != "out"},
        "versions": {"python": platform.python_version(), "structlat": sl.__version__}
        | {name: version(name) for name in ("torch", "numpy", "scipy")},
    }
    text = ""
    for line in lines:
        numbers = {name: [getattr(x, name) for x in line.qualities] for name in Quality._fields}
        text += json.dumps({"problem": line.problem, "estimator": line.estimator} | numbers | shared) + "\n"
    write_whole(path, lambda beside: beside.write_text(text))


# ---- The picture. ----------------------------------------------------------------------------------------------------

LOOKS: dict[str, tuple[str, str]] = {  # colour and mark: green are exact, blue and cyan unbiased, the others biased
    "softmax": ("tab:green", "o"),
    "sparsemax": ("tab:green", "s"),
    "topk": ("tab:green", "D"),
    "sparsemap": ("tab:green", "^"),
    "sparsemap-budget": ("tab:green", "v"),
    "sfe": ("navy", "o"),
    "sfe+": ("royalblue", "s"),
    "rloo": ("cornflowerblue", "D"),
    "nvil": ("slateblue", "^"),
    "disarm": ("black", "v"),
    "sum-and-sample": ("darkcyan", "o"),
    BASELINE: ("darkturquoise", "s"),
    "gumbel": ("tab:orange", "o"),
    "st-gumbel": ("gold", "s"),
    "perturb-and-map": ("tab:red", "o"),
    "imle": ("salmon", "s"),
    "vimco": ("tab:purple", "o"),
}
FLOORS = 0.05, 0.002  # where deviations and biases are drawn that are 0


def style(name: str) -> dict[str, Any]:
    """How its lines are drawn."""
    color, mark = LOOKS.get(name, ("tab:gray", "o"))
    return {"color": color, "marker": mark, "markersize": 5, "linewidth": 1.2}


def picture(lines: Sequence[Line]) -> Figure:
    """A column a problem: deviation above, bias below, both over the calls of the loss."""
    problems = list(dict.fromkeys(line.problem for line in lines))
    shown = {line.estimator for line in lines}
    names = [name for name in [*LOOKS, *NAMES] if name in shown]
    figure = Figure(figsize=(2.2 + 2.9 * len(problems), 8.4), layout="constrained")
    axes = figure.subplots(2, len(problems), sharex=True, sharey="row", squeeze=False)
    for column, problem in enumerate(problems):
        own = [line for line in lines if line.problem == problem]
        draw_deviation(axes[0][column], own)
        draw_bias(axes[1][column], own)
        axes[0][column].set_title(f"{problem} ({SPACES[problem].cardinality()} structures)", fontsize="medium")
        axes[1][column].set_xlabel("loss calls an example")
    axes[0][0].set_ylabel("deviation of one estimate")
    axes[1][0].set_ylabel("bias: error of the mean of many")
    handles = [Line2D([], [], label=name, **style(name)) for name in dict.fromkeys(names)]
    handles.append(Line2D([], [], label="no bias seen: how\nlarge chance is", color="0.75", marker=".", linestyle=""))
    figure.legend(handles=handles, loc="outside right center", fontsize="small", frameon=False)
    figure.suptitle("Error of the gradient, relative to the exact one", fontsize="medium")
    return figure


def draw_deviation(ax: Axes, lines: Sequence[Line]) -> None:
    """How much one estimate varies, in logarithms; on the floor what does not vary at all."""
    for line in lines:
        ax.plot([x.calls for x in line.qualities], floored(line, "deviation", FLOORS[0]), **style(line.estimator))
    dress(ax, FLOORS[0], [0.1, 0.2, 0.5, 1, 2, 5, 10, 20])


def draw_bias(ax: Axes, lines: Sequence[Line]) -> None:
    """What averaging does not take away; where none is seen, the size that chance has, in grey."""
    for line in lines:
        exact = line.estimator in EXACT
        calls = [x.calls if x.biased or exact else math.nan for x in line.qualities]
        ax.plot(calls, floored(line, "bias", FLOORS[1]), **style(line.estimator))
        others = [x for x in line.qualities if not x.biased and not exact]
        ax.plot([x.calls for x in others], [max(x.chance, FLOORS[1]) for x in others], ".", color="0.75", zorder=0)
    dress(ax, FLOORS[1], [0.01, 0.1, 1])


def floored(line: Line, what: str, floor: float) -> list[float]:
    """The values of a line, those that are 0 on the floor."""
    return [max(getattr(x, what), floor) for x in line.qualities]


def dress(ax: Axes, floor: float, ticks: list[float]) -> None:
    """Logarithms on both axes, and 0 where the floor is."""
    ax.set(xscale="log", yscale="log", ylim=(floor / 1.4, None), xlim=(0.85, 100))
    ax.axhline(floor, color="0.6", linewidth=0.8, zorder=0)
    ax.minorticks_off()
    ax.set_xticks([1, 2, 4, 8, 16, 32, 64], labels=["1", "2", "4", "8", "16", "32", "64"])
    ax.set_yticks([floor, *ticks], labels=["0", *(f"{x:g}" for x in ticks)])
    ax.grid(alpha=0.3)


# ---- The command line. -----------------------------------------------------------------------------------------------


class Settings(NamedTuple):
    """What can be set on the command line."""

    spaces: tuple[str, ...]
    estimators: tuple[str, ...]
    draws: int
    seed: int
    quick: bool
    out: Path


def main(settings: Settings) -> int:
    """Measure all, and show what came of it. Returns the exit status."""
    torch.set_num_threads(1)  # as fast for sizes like these, and the numbers do not depend on the machine's cores
    cases = [(s, n) for s in settings.spaces for n in settings.estimators if is_defined(n, SPACES[s])]
    lines: list[Line] = []
    stopped = False
    with tqdm(cases, unit="estimator") as bar:
        try:
            for space, name in bar:
                bar.set_description(f"{space}: {name}")
                problem = Problem(space, settings.seed)
                own = [measure(problem, name, x, settings) for x in chosen_settings(name, settings.quick)]
                lines.append(Line(space, name, own))
        except KeyboardInterrupt:
            stopped = True
    if stopped:
        print("Stopped by Ctrl-C." + (" This is what had been measured:" if lines else ""))
    if lines:
        print("\n".join(["", table(lines), "", *(textwrap.fill(text, 120) for text in LEGEND)]))
        results, words, image = (settings.out / f"gradient_quality.{kind}" for kind in ("jsonl", "md", "png"))
        write_results(results, lines, settings)
        write_whole(words, lambda beside: beside.write_text(page(lines)))
        figure = picture(lines)
        write_whole(image, lambda beside: figure.savefig(beside, dpi=100))
        print(f"\nWritten: {image}, {words}, {results}")
    return 130 if stopped else 0


def parse_settings() -> Settings:
    """The command line; ``--help`` explains it."""
    parser = ArgumentParser(description="Bias and variance of every estimator against the number of its loss calls.")
    parser.add_argument("--spaces", nargs="+", choices=list(SPACES), default=list(SPACES), help="which spaces")
    parser.add_argument("--estimators", nargs="+", choices=NAMES, default=NAMES, help="which estimators")
    parser.add_argument("--draws", type=PositiveInt, default=4000, help="estimates of each gradient, at least 2")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="of scores, decoder and draws")
    parser.add_argument("--quick", action="store_true", help="two numbers of samples each, and 200 draws")
    parser.add_argument("--out", default="out/gradient_quality", help="folder for gradient_quality.png, .md and .jsonl")
    chosen = parser.parse_args().as_dict()
    chosen |= {name: tuple(chosen[name]) for name in ("spaces", "estimators")}
    if chosen["quick"]:
        chosen["draws"] = min(chosen["draws"], 200)
    return Settings(**(chosen | {"out": Path(chosen["out"]), "draws": max(chosen["draws"], 2)}))


if __name__ == "__main__":
    try:
        sys.exit(main(parse_settings()))
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        sys.exit(130)
