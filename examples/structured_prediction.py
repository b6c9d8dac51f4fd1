"""Reading rows of noisy digits with a linear-chain tagger, trained by six losses side by side.

    python examples/structured_prediction.py

The images are real: the 1,797 of 8x8 pixels that come with scikit-learn. Eight of them in a row are one example, and
noise is added to each pixel, so much that an image alone is often misread. What helps are the neighbours, for which
digit follows which is made up, and the same in all runs: after each of the ten come three others only, with
probabilities 0.6, 0.3 and 0.1 (see ``grammar``). The tagger is told nothing of that. It has a small network that scores
the ten labels of each image, the same for all positions, and a table of 10 x 10 scores for neighbouring labels; the row
that scores highest together is its answer.

The losses compared are ``structlat.losses``, and as a baseline the cross-entropy of each image alone, which has no use
for the table. Images, rows, weights, steps and learning rate are the same for all. Training and held-out rows have no
image in common.
"""

from __future__ import annotations

import json
import math
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from files import write_whole
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveFloat, PositiveInt, restricted_number_type
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import structlat as sl
from structlat.losses import CRFLoss, HingeLoss, PerceptronLoss, PerturbedLoss, SparseMAPLoss

DIGITS = 10
LENGTH = 8
PIXELS = 8 * 8
HIDDEN = 64
HELD_OUT = 597  # images
HELD_OUT_ROWS = 500
BATCH = 32
CHAIN = sl.LinearChain(LENGTH, DIGITS)
NoiseLevel = restricted_number_type("NoiseLevel", float, [(">=", 0), ("<=", 10)], docstring="number from 0 to 10")


# ---- Data. -----------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Rows of images x [N, 8, 64], grey levels from 0 to 1 plus noise, and their labels z [N, 8]."""

    x: Tensor
    z: Tensor


def grammar() -> Tensor:
    """The probability that digit i is followed by j, [10, 10]: three successors each, drawn once and for all."""
    generator = torch.Generator().manual_seed(0)
    probability = torch.zeros(DIGITS, DIGITS)
    for after in probability:
        after[torch.randperm(DIGITS, generator=generator)[:3]] = torch.tensor([0.6, 0.3, 0.1])
    return probability


def draw_rows(images: Tensor, labels: Tensor, count: int, noise: float, generator: torch.Generator) -> Rows:
    """Labels by the grammar, the first one of ten at random; an image of each label, at random; noise on its pixels."""
    follows = grammar()
    z = torch.empty(count, LENGTH, dtype=torch.int64)
    z[:, 0] = torch.randint(DIGITS, (count,), generator=generator)
    for t in range(1, LENGTH):
        z[:, t] = torch.multinomial(follows[z[:, t - 1]], 1, generator=generator).squeeze(1)
    x = torch.empty(count, LENGTH, PIXELS)
    for digit in range(DIGITS):
        own, here = images[labels == digit], z == digit
        x[here] = own[torch.randint(len(own), (int(here.sum()),), generator=generator)]
    return Rows(x + noise * torch.randn(x.shape, generator=generator), z)


def load_rows(settings: Settings, seed: int) -> tuple[Rows, Rows]:
    """Training and held-out rows; the seed also decides which images are held out."""
    digits = load_digits()
    images, labels = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target)
    generator = torch.Generator().manual_seed(seed)
    counts = (settings.rows, HELD_OUT_ROWS)
    halves = train_test_split(range(len(images)), test_size=HELD_OUT, random_state=seed, stratify=labels)
    train, held_out = (
        draw_rows(images[part], labels[part], count, settings.noise, generator)
        for part, count in zip(halves, counts, strict=True)
    )
    return train, held_out


# ---- The tagger and its losses. --------------------------------------------------------------------------------------


class Tagger(nn.Module):
    """Scores of labels by a network that all positions share, and scores of neighbouring labels by a table."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, DIGITS))
        self.transition = nn.Parameter(torch.zeros(DIGITS, DIGITS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 8, 64] to scores [B, 8, 10] and extra scores [10, 10], as LinearChain takes them."""
        return self.encoder(x), self.transition

    @torch.no_grad()
    def read(self, x: Tensor) -> Tensor:
        """The rows of labels that score highest, [B, 8]."""
        return sl.argmax(CHAIN, *self(x))


class IndependentLoss(nn.Module):
    """The baseline: cross-entropy of each position alone, summed; the transitions stay at zero."""

    def forward(self, scores: Tensor, transition: Tensor, target: Tensor) -> Tensor:
        """Losses [B]."""
        return F.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="none").view_as(target).sum(-1)


LOSSES: dict[str, Callable[[int], nn.Module]] = {
    "independent": lambda seed: IndependentLoss(),
    "perceptron": lambda seed: PerceptronLoss(CHAIN),
    "hinge": lambda seed: HingeLoss(CHAIN),
    "crf": lambda seed: CRFLoss(CHAIN),
    "sparsemap": lambda seed: SparseMAPLoss(CHAIN),
    "perturbed": lambda seed: PerturbedLoss(CHAIN, generator=torch.Generator().manual_seed(seed)),
}


class Run(NamedTuple):
    """A tagger trained with one loss from one seed."""

    loss: str
    seed: int
    model: Tagger
    right: Tensor  # which held-out labels are, [N, 8]
    seconds: float  # of training


def train(name: str, seed: int, settings: Settings, bar: tqdm) -> Run:
    """Train one tagger, and read the held-out rows with it."""
    rows, held_out = load_rows(settings, seed)
    torch.manual_seed(seed)  # weights; the order of rows has a generator of its own: nothing depends on the other runs
    order = torch.Generator().manual_seed(seed)
    model, loss = Tagger(), LOSSES[name](seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    warm = model(rows.x[:2])
    loss(*warm, target=rows.z[:2])  # the first use of a solver compiles or loads it: that is not the time of training
    bar.set_description(f"{name:>11}, seed {seed}")
    start = time.perf_counter()
    for _ in range(settings.epochs):
        for batch in torch.randperm(settings.rows, generator=order).split(BATCH):
            value = loss(*model(rows.x[batch]), target=rows.z[batch]).mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            bar.update()
        bar.set_postfix(loss=f"{value.item():.3f}")
    seconds = time.perf_counter() - start
    return Run(name, seed, model, model.read(held_out.x) == held_out.z, seconds)


# ---- What is shown at the end. ---------------------------------------------------------------------------------------


class Summary(NamedTuple):
    """All seeds of one loss: shares of held-out labels, and of whole rows, that are right."""

    loss: str
    seeds: list[int]
    position_accuracies: list[float]
    row_accuracies: list[float]
    seconds: list[float]


def summaries(runs: Sequence[Run]) -> list[Summary]:
    """One a loss, in the order of training."""
    out = []
    for name in dict.fromkeys(run.loss for run in runs):
        own = [run for run in runs if run.loss == name]
        positions = [float(run.right.double().mean()) for run in own]
        whole = [float(run.right.all(-1).double().mean()) for run in own]
        out.append(Summary(name, [run.seed for run in own], positions, whole, [run.seconds for run in own]))
    return out


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for a single seed."""
    return statistics.stdev(values) if len(values) > 1 else None


def table(lines: Sequence[Summary]) -> str:
    """The results, one line a loss, and what the columns mean."""

    def percent(values: Sequence[float]) -> str:
        spread = deviation(values)
        return f"{100 * statistics.mean(values):.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")

    headers = ["loss", "labels right, %", "whole rows right, %", "seconds"]
    rows = [
        [x.loss, percent(x.position_accuracies), percent(x.row_accuracies), statistics.mean(x.seconds)] for x in lines
    ]
    text: str = tabulate(rows, headers, floatfmt=".1f", disable_numparse=[1, 2], colalign=("left", *["right"] * 3))
    return text + (
        f"\n\nlabels right: of {HELD_OUT_ROWS} held-out rows of {LENGTH} digits; mean ± standard deviation over seeds."
        "\nwhole rows right: all eight labels of a row."
        "\nseconds: of training, mean over seeds, on this machine."
    )


def write_results(path: Path, lines: Sequence[Summary], settings: Settings) -> None:
    """One JSON line a loss, with all that is needed to repeat it."""
    shared = {
        "command": f"python examples/structured_prediction.py {shlex.join(sys.argv[1:])}".strip(),
        "settings": {name: value for name, value in settings._asdict().items() if name != "out"},
        "versions": {"python": platform.python_version(), "structlat": sl.__version__}
        | {name: version(name) for name in ("torch", "numpy", "scikit-learn")},
    }
    text = ""
    for line in lines:
        numbers = {
            "position_accuracy": statistics.mean(line.position_accuracies),
            "position_accuracy_deviation": deviation(line.position_accuracies),
            "row_accuracy": statistics.mean(line.row_accuracies),
            "row_accuracy_deviation": deviation(line.row_accuracies),
        }
        text += json.dumps({"loss": line.loss} | numbers | line._asdict() | shared) + "\n"
    write_whole(path, lambda beside: beside.write_text(text))


# ---- The picture. ----------------------------------------------------------------------------------------------------


SHOWN = 4  # held-out rows


def picture(runs: Sequence[Run], settings: Settings) -> Figure:
    """Held-out rows with what each tagger reads, and the transitions it has learned beside the true ones."""
    first = [run for run in runs if run.seed == runs[0].seed]
    learned = [run for run in first if run.loss != "independent"]
    _, held_out = load_rows(settings, runs[0].seed)
    heights = (0.9 + 0.17 * len(first)) * SHOWN / 2 + 0.4, 2.6
    figure = Figure(figsize=(13, sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    above.suptitle("The first held-out rows, the digits they are, and how they are read (errors in red)")
    for i, ax in enumerate(above.subplots(SHOWN // 2, 2).flat):
        draw_row(
            ax, held_out.x[i], held_out.z[i], {run.loss: run.model.read(held_out.x[i : i + 1])[0] for run in first}
        )
    below.suptitle(
        "Which digit (across) follows which (down): the truth, and the softmax of each line of learned scores"
    )
    axes = below.subplots(1, 1 + len(learned), squeeze=False)[0]
    draw_table(axes[0], grammar(), "true probabilities")
    for ax, run in zip(axes[1:], learned, strict=True):
        draw_table(ax, run.model.transition.detach().softmax(-1), run.loss)
    return figure


def draw_row(ax: Axes, x: Tensor, truth: Tensor, readings: dict[str, Tensor]) -> None:
    """Eight images side by side; below each its digit, then what every tagger makes of it."""
    strip = F.pad(x.unflatten(-1, (8, 8)), (1, 1), value=math.nan).transpose(0, 1).flatten(1)
    ax.imshow(strip.numpy(), cmap="gray_r", vmin=-0.5, vmax=1.5)
    for line, (name, labels) in enumerate({"truth": truth, **readings}.items()):
        y = 9.5 + 2.6 * line
        ax.text(-1.5, y, name, ha="right", va="center", fontsize="small")
        for t, (label, right) in enumerate(zip(labels.tolist(), truth.tolist(), strict=True)):
            wrong = label != right
            ax.text(
                10 * t + 4.5, y, str(label), ha="center", va="center", fontsize="small",
                color="tab:red" if wrong else "black", fontweight="bold" if wrong or name == "truth" else "normal",
            )  # fmt: skip
    ax.set(xlim=(-16, 10 * LENGTH), ylim=(10.5 + 2.6 * len(readings), -1))
    ax.set_axis_off()


def draw_table(ax: Axes, probabilities: Tensor, title: str) -> None:
    """A table of transitions: from a digit (down) to the next (across)."""
    ax.imshow(probabilities.numpy(), cmap="Blues", vmin=0, vmax=0.8)
    ax.set_title(title, fontsize="medium")
    ticks = range(DIGITS)
    ax.set_xticks(ticks, labels=map(str, ticks), fontsize="x-small")
    ax.set_yticks(ticks, labels=map(str, ticks), fontsize="x-small")


# ---- The command line. -----------------------------------------------------------------------------------------------


class Settings(NamedTuple):
    """What can be set on the command line."""

    losses: tuple[str, ...]
    seeds: int
    rows: int
    noise: float
    epochs: int
    learning_rate: float
    out: Path


def main(settings: Settings) -> int:
    """Train with every loss from every seed, and show what came of it. Returns the exit status."""
    torch.set_num_threads(1)  # as fast for networks this small, and the numbers do not depend on the machine's cores
    steps = settings.epochs * math.ceil(settings.rows / BATCH)
    runs: list[Run] = []
    stopped = False
    with tqdm(total=len(settings.losses) * settings.seeds * steps, unit="step") as bar:
        try:
            for seed in range(settings.seeds):
                for name in settings.losses:
                    runs.append(train(name, seed, settings, bar))
        except KeyboardInterrupt:
            stopped = True
    if stopped:
        print("Stopped by Ctrl-C." + (" These are the runs that had ended:" if runs else ""))
    if runs:
        lines = summaries(runs)
        print("\n" + table(lines))
        results, image = settings.out / "results.jsonl", settings.out / "structured_prediction.png"
        write_results(results, lines, settings)
        figure = picture(runs, settings)
        write_whole(image, lambda beside: figure.savefig(beside, dpi=100))
        print(f"\nWritten: {image}, {results}")
    return 130 if stopped else 0


def parse_settings() -> Settings:
    """The command line; ``--help`` explains it."""
    parser = ArgumentParser(description="Train a linear-chain tagger on rows of noisy digits with several losses.")
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES), help="which losses")
    parser.add_argument("--seeds", type=PositiveInt, default=3, help="how many, from 0: of images, rows and weights")
    parser.add_argument("--rows", type=PositiveInt, default=1000, help="rows of digits to train with")
    parser.add_argument("--noise", type=NoiseLevel, default=0.6, help="standard deviation of the noise; black is 1")
    parser.add_argument("--epochs", type=PositiveInt, default=30, help="passes over the training rows")
    parser.add_argument("--learning_rate", type=PositiveFloat, default=0.01, help="of Adam")
    parser.add_argument(
        "--out", default="out/structured_prediction", help="folder for structured_prediction.png and results.jsonl"
    )
    chosen = parser.parse_args()
    return Settings(**(chosen.as_dict() | {"losses": tuple(chosen.losses), "out": Path(chosen.out)}))


if __name__ == "__main__":
    try:
        sys.exit(main(parse_settings()))
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        sys.exit(130)
