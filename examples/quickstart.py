"""A VAE on real digits whose latent is 32 bits, trained through three sparse distributions over bit-vectors.

    python examples/quickstart.py

An inference network gives each image a score for each of the 32 bits. A normalizer of structlat turns the scores into
q(z|x), a distribution over whole bit-vectors of which only a few have probability: ``sparsemap`` and
``topk_sparsemax`` over all 2^32 of them, and ``sparsemax`` over the 529 that have at most two ones, which can be
enumerated. A generator turns z into an image. Because the support is small, the loss
E_q[-log p(x|z)] + KL(q || uniform) is computed exactly: the generator is called once for each structure in it, and
there is neither sampling nor relaxation.

Data: the 1,797 images of 8x8 pixels with 17 grey levels that come with scikit-learn. Nothing is fetched.
"""

from __future__ import annotations

import signal
import sys

# while the libraries below are imported, which takes seconds, Ctrl-C ends the script without a traceback
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))

import json
import logging
import math
import platform
import shlex
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from files import write_whole
from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt, restricted_number_type
from lightning.pytorch.callbacks import TQDMProgressBar
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

import structlat as sl
import structlat.plot

BITS = 32
PIXELS = 8 * 8
LEVELS = 17  # grey levels 0..16
HIDDEN = 128
HELD_OUT = 297
BatchSize = restricted_number_type("BatchSize", int, [(">=", 2), ("<=", 500)], docstring="whole number from 2 to 500")
METHODS = ("sparsemap", "topk_sparsemax", "sparsemax")


# ---- The latent variable. --------------------------------------------------------------------------------------------


def latent_layer(method: str, k: int) -> sl.SparseMAP | sl.TopKSparsemax | sl.Marginalize:
    """The layer from scores [B, 32] to q(z|x). This is all in which the three methods differ."""
    if method == "sparsemap":
        return sl.SparseMAP(sl.BitVector(BITS))
    if method == "topk_sparsemax":
        return sl.TopKSparsemax(sl.BitVector(BITS), k=k)
    # sparsemax needs the score of every structure: 2^32 are too many, those with at most two ones are 529
    return sl.Marginalize(sl.BudgetBitVector(BITS, budget=2), normalizer="sparsemax")


def uniform_prior(structure: sl.Structure, count: int) -> Tensor:
    """``count`` structures [count, 32] from the uniform distribution over the space: the VAE's prior."""
    if isinstance(structure, sl.BitVector):
        return torch.randint(2, (count, BITS)).float()
    every = structure.enumerate().float()
    return every[torch.randint(len(every), (count,))]


# ---- The model. ------------------------------------------------------------------------------------------------------


class Generator(nn.Module):
    """z [N, 32] to the logits of a categorical over the grey levels of each pixel, [N, 64, 17]."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Sequential(nn.Linear(BITS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS * 5))
        self.levels = nn.Linear(5, LEVELS)  # shared by all pixels

    def forward(self, z: Tensor) -> Tensor:
        """Logits, not normalized."""
        logits: Tensor = self.levels(self.pixels(z).unflatten(-1, (PIXELS, 5)))
        return logits

    def grey(self, z: Tensor) -> Tensor:
        """Expected grey levels [N, 64], for pictures."""
        logits: Tensor = self(z)
        return logits.softmax(-1) @ torch.arange(LEVELS, dtype=z.dtype)


class BitVAE(L.LightningModule):
    """The VAE: images x [B, 64] of whole grey levels, scores [B, 32], q(z|x), and the exact negative ELBO."""

    def __init__(self, latent: sl.SparseMAP | sl.TopKSparsemax | sl.Marginalize, learning_rate: float) -> None:
        super().__init__()
        assert latent.structure is not None
        self.learning_rate = learning_rate
        # a bit whose score is large for every image is always on, or off, and has no gradient that would free it: the
        # normalization keeps the scores of each bit around zero (without it sparsemap ends with 11 of 32 bits in use)
        self.inference = nn.Sequential(
            nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, BITS), nn.BatchNorm1d(BITS)
        )
        self.latent = latent
        self.generator = Generator()
        self.structure: sl.Structure = latent.structure
        self.log_cardinality = math.log(latent.structure.cardinality())
        self.support_history: list[float] = []  # mean support size of each training step
        self.calls_an_image = MeanMetric()
        self.calls = 0

    def forward(self, x: Tensor) -> sl.SparseDistribution:
        """q(z|x)."""
        post: sl.SparseDistribution = self.latent(self.inference(x / (LEVELS - 1)))
        return post

    def negative_elbo(self, x: Tensor, post: sl.SparseDistribution) -> Tensor:
        """E_q[-log p(x|z)] + KL(q || uniform over Z) in nats an image, [B]. Exact: a sum over the support of q."""

        def reconstruction(z: Tensor, i: Tensor) -> Tensor:
            logits = self.generator(z)
            return F.cross_entropy(logits.flatten(0, 1), x[i].flatten(), reduction="none").view_as(x[i]).sum(-1)

        return post.expect(reconstruction) + self.log_cardinality - post.entropy()

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        """The loss, and what the progress bar shows."""
        (x,) = batch
        post = self(x)
        bits = bits_per_pixel(self.negative_elbo(x, post)).mean()
        calls = post.support_size  # `expect` calls the generator once a structure in the support
        self.calls += int(calls.sum())
        self.calls_an_image.update(calls)
        self.support_history.append(float(calls.double().mean()))
        self.log("loss", bits.detach(), prog_bar=True)
        self.log("support", self.support_history[-1], prog_bar=True)
        self.log("decoder calls", float(self.calls), prog_bar=True)
        return bits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as in the paper."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def bits_per_pixel(nats: Tensor) -> Tensor:
    """From nats an image to bits a pixel."""
    return nats / (PIXELS * math.log(2))


# ---- Training. -------------------------------------------------------------------------------------------------------


class RunProgressBar(TQDMProgressBar):
    """Lightning's progress bar, over all epochs of a run: an epoch takes a fraction of a second here."""

    def __init__(self, label: str) -> None:
        super().__init__(refresh_rate=20)
        self.label = label

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """One bar a run."""
        super().on_train_start()
        self.train_progress_bar.reset(total=int(trainer.estimated_stepping_batches))
        self.train_progress_bar.set_description(self.label)

    def on_train_epoch_start(self, *_: Any) -> None:
        """The bar goes on."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by steps of the run, not of the epoch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)

    def on_exception(self, *_: Any) -> None:
        """Ctrl-C: leave the bar where it is and end its line."""
        if self._train_progress_bar is not None:
            self.train_progress_bar.close()

    def get_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loss (bits a pixel), support size and decoder calls so far, as a person reads them."""
        formats = {"loss": ".3f", "support": ".2f", "decoder calls": ",.0f"}
        return {name: format(x, formats[name]) for name, x in super().get_metrics(*args, **kwargs).items()}


class Run(NamedTuple):
    """A trained model and its numbers."""

    method: str
    model: BitVAE
    bits_per_pixel: float  # of held-out digits: exact negative ELBO
    support: float  # mean support size on held-out digits
    decoder_calls: float  # an image and training step, mean over all of training
    seconds: float  # of training
    epochs: float  # done; fewer than asked for after Ctrl-C
    interrupted: bool


def load_data(seed: int) -> tuple[Tensor, Tensor]:
    """Training and held-out images, [N, 64] whole numbers from 0 to 16; a split by seed, with all classes in both."""
    digits = load_digits()
    train, held_out = train_test_split(digits.data, test_size=HELD_OUT, random_state=seed, stratify=digits.target)
    return torch.from_numpy(train).long(), torch.from_numpy(held_out).long()


def run_method(method: str, train: Tensor, held_out: Tensor, settings: Settings) -> Run | None:
    """Train one method and evaluate it. After Ctrl-C: with what was learned until then; None if that is nothing."""
    L.seed_everything(settings.seed, verbose=False)  # for each method: its numbers do not depend on the others
    model = BitVAE(latent_layer(method, settings.k), settings.learning_rate)
    # the first use of a solver compiles or loads it: that is not the time of training
    model.latent(torch.zeros(settings.batch_size, BITS, requires_grad=True))
    batches = DataLoader(TensorDataset(train), batch_size=settings.batch_size, shuffle=True)
    trainer = L.Trainer(
        max_epochs=settings.epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[RunProgressBar(f"{method:>14}")],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    try:
        trainer.fit(model, batches)
    except SystemExit:  # what Lightning makes of Ctrl-C, after which it ignores any other
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
    seconds = time.perf_counter() - start
    if not model.support_history:
        return None
    model.eval()
    with torch.no_grad():
        post = model(held_out)
        bits = bits_per_pixel(model.negative_elbo(held_out, post)).mean()
    return Run(
        method=method,
        model=model,
        bits_per_pixel=float(bits),
        support=float(post.support_size.double().mean()),
        decoder_calls=float(model.calls_an_image.compute()),
        seconds=seconds,
        epochs=trainer.global_step / len(batches),
        interrupted=trainer.interrupted,
    )


# ---- What is shown at the end. ---------------------------------------------------------------------------------------


def table(runs: Sequence[Run]) -> str:
    """The results, one line a method, and what the columns mean."""
    headers = ["method", "structures", "bits a pixel", "mean support", "decoder calls an image", "seconds"]
    rows = [
        [
            run.method + (" (stopped)" if run.interrupted else ""),
            f"{run.model.structure.cardinality():,}",
            run.bits_per_pixel,
            run.support,
            run.decoder_calls,
            run.seconds,
        ]
        for run in runs
    ]
    formats = ("", "", ".3f", ".2f", ".2f", ".1f")
    lines: str = tabulate(rows, headers, floatfmt=formats, disable_numparse=[1], colalign=("left", *["right"] * 5))
    return lines + (
        "\n\nstructures: size of the latent space. Under a uniform prior one of 2^32 costs 32 bits, one of 529 costs 9."
        "\nbits a pixel: negative ELBO of held-out digits, exact; an upper bound on their negative log-likelihood."
        "\nmean support: structures that have probability, an image, on held-out digits after training."
        "\ndecoder calls an image: generator evaluations an image in a training step, mean over the whole training."
        "\nseconds: training alone, on this machine."
    )


def write_results(path: Path, runs: Sequence[Run], settings: Settings) -> None:
    """One JSON line a method, with all that is needed to repeat it."""
    packages = ("torch", "numpy", "lightning", "scikit-learn")
    shared = {
        "command": f"python examples/quickstart.py {shlex.join(sys.argv[1:])}".strip(),
        "settings": {name: value for name, value in settings._asdict().items() if name != "out"},
        "versions": {"python": platform.python_version(), "structlat": sl.__version__}
        | {name: version(name) for name in packages},
    }
    lines = []
    for run in runs:
        numbers = {name: value for name, value in run._asdict().items() if name != "model"}
        space = {"latent_space": repr(run.model.structure), "structures": run.model.structure.cardinality()}
        lines.append(json.dumps(numbers | space | shared) + "\n")
    write_whole(path, lambda beside: beside.write_text("".join(lines)))


# ---- The picture. ----------------------------------------------------------------------------------------------------


SHOWN = 12  # digits in a line
COLOURS = {"sparsemap": "tab:blue", "topk_sparsemax": "tab:orange", "sparsemax": "tab:green"}


@torch.no_grad()
def picture(runs: Sequence[Run], held_out: Tensor) -> Figure:
    """Digits, reconstructions, samples, support sizes over training, and the support of one digit."""
    heights = (0.4 + 0.5 * (1 + len(runs)), 0.7 + max(3.0, 1.55 * len(runs)))
    figure = Figure(figsize=(13, sum(heights)), layout="constrained")
    grid = figure.subfigures(2, 1, height_ratios=heights, hspace=0.03, squeeze=False)
    above = grid[0, 0].subfigures(1, 2, wspace=0.02, squeeze=False)
    draw_reconstructions(above[0, 0].subplots(), runs, held_out[:SHOWN])
    draw_samples(above[0, 1].subplots(), runs)
    below = grid[1, 0].subfigures(1, 2, width_ratios=(2, 3), wspace=0.02, squeeze=False)
    draw_support_sizes(below[0, 0].subplots(), runs)
    draw_supports(below[0, 1], runs, held_out[:SHOWN])
    return figure


def draw_reconstructions(ax: Axes, runs: Sequence[Run], x: Tensor) -> None:
    """Originals, and below each what a model makes of it: the mean grey level under q(z|x) p(x|z)."""
    lines = {"original": x.float()}
    for run in runs:
        grey = run.model.generator.grey
        lines[run.method] = run.model(x).expect(lambda z, i, grey=grey: grey(z))
    draw_lines(ax, lines)
    ax.set_title("Held-out digits and their reconstructions")


def draw_samples(ax: Axes, runs: Sequence[Run]) -> None:
    """Images of z drawn from the prior."""
    draw_lines(ax, {r.method: r.model.generator.grey(uniform_prior(r.model.structure, SHOWN)) for r in runs})
    ax.set_title("Fresh samples, z drawn from the uniform prior")


def draw_lines(ax: Axes, lines: dict[str, Tensor]) -> None:
    """Lines of 8x8 images [n, 64], each with its name at the left."""
    padded = torch.stack([F.pad(x.unflatten(-1, (8, 8)), (1, 1, 1, 1), value=math.nan) for x in lines.values()])
    ax.imshow(padded.transpose(1, 2).flatten(2).flatten(0, 1).numpy(), cmap="gray_r", vmin=0, vmax=LEVELS - 1)
    ax.set_yticks([10 * line + 4.5 for line in range(len(lines))], labels=list(lines))
    ax.tick_params(left=False)
    ax.set_xticks([])
    ax.set_frame_on(False)
    ax.set_anchor("N")


def draw_support_sizes(ax: Axes, runs: Sequence[Run]) -> None:
    """Mean support size by epoch, each step (pale) and smoothed."""
    for run in runs:
        history = torch.tensor(run.model.support_history)
        epoch = torch.linspace(0, run.epochs, len(history))
        window = max(1, len(history) // 40)
        ax.plot(epoch, history, color=COLOURS[run.method], alpha=0.25, linewidth=0.8)
        smooth = history.unfold(0, window, 1).mean(-1)
        ax.plot(epoch[window - 1 :], smooth, color=COLOURS[run.method], linewidth=2, label=run.method)
    ax.set_yscale("log")
    ax.set_yticks([1, 2, 5, 10, 20, 50, 100, 200, 500], labels=["1", "2", "5", "10", "20", "50", "100", "200", "500"])
    ax.minorticks_off()
    ax.set_ylim(0.9, 1.3 * max(max(run.model.support_history) for run in runs))
    ax.set(title="Support size over training", xlabel="epoch", ylabel="structures with probability, a digit")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)


def draw_supports(figure: SubFigure, runs: Sequence[Run], x: Tensor) -> None:
    """The structures in each model's support for one of the digits: probability, bits, and the image of the bits."""
    # the one about which the models are least certain together
    chosen = int(torch.stack([run.model(x).entropy() for run in runs]).sum(0).argmax())
    posts = [run.model(x[chosen : chosen + 1]) for run in runs]
    columns = min(10, max(int(post.support_size) for post in posts))
    figure.suptitle(f"The support of q(z|x) for held-out digit {chosen + 1}: probability, the bits z, the image of z")
    for line, run, post in zip(figure.subfigures(len(runs), 1, squeeze=False).flat, runs, posts, strict=True):
        line.supylabel(run.method, color=COLOURS[run.method], fontsize="medium")
        bits, images = line.subplots(2, columns, height_ratios=(4, 8), squeeze=False)
        structlat.plot.distribution(post, shape=(4, 8), axes=list(bits))
        order = post.probs[0].argsort(descending=True)[: int(post.support_size)]
        for ax, image in zip(images, run.model.generator.grey(post.structures[0, order]), strict=False):
            ax.imshow(image.unflatten(0, (8, 8)).numpy(), cmap="gray_r", vmin=0, vmax=LEVELS - 1)
            ax.set(xticks=[], yticks=[])
        for ax in images[len(order) :]:
            ax.set_axis_off()


# ---- The command line. -----------------------------------------------------------------------------------------------


def main(settings: Settings) -> int:
    """Train the methods one after the other, and show what came of them. Returns the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)  # as fast for networks this small, and the numbers do not depend on the machine's cores
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # which devices there are, and tips
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # the images are in memory
    warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # Lightning under a new torch
    train, held_out = load_data(settings.seed)
    runs: list[Run] = []
    stopped = False
    for method in settings.methods:
        try:
            run = run_method(method, train, held_out, settings)
        except KeyboardInterrupt:
            run = None
        if run is not None:
            runs.append(run)
        stopped = run is None or run.interrupted
        if stopped:
            print("Stopped by Ctrl-C." + (" This is what has been learned so far:" if runs else ""))
            break
    if runs:
        print("\n" + table(runs))
        results, image = settings.out / "results.jsonl", settings.out / "quickstart.png"
        write_results(results, runs, settings)
        figure = picture(runs, held_out)
        write_whole(image, lambda beside: figure.savefig(beside, dpi=100))
        print(f"\nWritten: {image}, {results}")
    return 130 if stopped else 0


class Settings(NamedTuple):
    """What can be set on the command line."""

    methods: tuple[str, ...]
    epochs: int
    batch_size: int
    learning_rate: float
    k: int
    seed: int
    out: Path


def parse_settings() -> Settings:
    """The command line; ``--help`` explains it."""
    parser = ArgumentParser(description="Train a VAE with a latent of 32 bits on real digits, in three ways.")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), help="which distributions q(z|x) to train with"
    )
    parser.add_argument("--epochs", type=PositiveInt, default=40, help="passes over the training images, a method")
    parser.add_argument("--batch_size", type=BatchSize, default=32, help="images a step, from 2 to 500")
    parser.add_argument("--learning_rate", type=PositiveFloat, default=5e-3, help="of Adam")
    parser.add_argument("--k", type=PositiveInt, default=10, help="structures that topk_sparsemax chooses from")
    parser.add_argument(
        "--seed", type=NonNegativeInt, default=0, help="of the split, the weights and the order of the images"
    )
    parser.add_argument("--out", default="out/quickstart", help="folder for quickstart.png and results.jsonl")
    chosen = parser.parse_args()
    return Settings(**(chosen.as_dict() | {"methods": tuple(chosen.methods), "out": Path(chosen.out)}))


if __name__ == "__main__":
    try:
        sys.exit(main(parse_settings()))
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        sys.exit(130)
