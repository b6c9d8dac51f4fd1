"""What the experiments of this folder share: their options, a Lightning trainer that resumes to the same numbers, and
one JSON line for each finished run.

A script brings a dataclass that extends :class:`Settings`, a table of presets (:func:`resolve`), a :class:`Model` and
three loaders, hands them to :func:`run`, and gets its command line from :func:`command_line`.

Everything random follows from the seed and from how far training is: the order of the data from the epoch
(:class:`Batches`), all that a training step draws from the step and the process (:class:`Reseed`). So a checkpoint,
which holds weights, buffers, optimizer and history, needs no state of a generator to go on to the same numbers, with
several processes as with one. What is drawn is drawn in the step, from torch's generator, and not by the loader.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import platform
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import lightning as L
import numpy as np
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

import structlat as sl
from structlat.estimators import GumbelSoftmax

S = TypeVar("S", bound="Settings")
T = TypeVar("T")
Presets = Mapping[str, Mapping[str, Mapping[str, Any]]]


# ---- Options. --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(kw_only=True)
class Settings:
    """Options of every experiment. What is left at ``None`` comes from the preset and depends on the estimator.

    Parameters
    ----------
    estimator
        how the gradient through the latent variable is had: a name of structlat.estimators
    preset
        quick: minutes on one core; paper: the settings of Correia et al. 2020
    seed
        of the weights, the order of the data, the split and all other draws
    epochs
        passes over the training data
    batch_size
        examples a step, of all processes together
    learning_rate
        of Adam
    entropy
        coefficient of the entropy of q
    data_root
        folder with idx files as torchvision lays them out; by default images are fetched once into a cache
    cache
        where fetched images are kept; by default a folder structlat in the user's cache
    out
        folder for logs and checkpoints
    results
        file that gets one JSON line a finished run; by default results.jsonl in that folder
    accelerator
        of Lightning: cpu, gpu, ...
    devices
        how many accelerators, or processes on the CPU
    strategy
        of Lightning: auto, ddp, ...
    threads
        of torch, on the CPU, a process
    resume
        go on from the last checkpoint of the same settings, if there is one
    progress
        show a progress bar
    """

    estimator: str = "sparsemax"
    preset: Literal["quick", "paper"] = "quick"
    seed: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    entropy: float | None = None
    data_root: str | None = None
    cache: str | None = None
    out: str = "out"
    results: str | None = None
    accelerator: str = "cpu"
    devices: int = 1
    strategy: str = "auto"
    threads: int = 1
    resume: bool = False
    progress: bool = True
    overridden: list[str] = dataclasses.field(default_factory=list, init=False)

    def config(self) -> dict[str, Any]:
        """What decides the numbers: all but where files lie and what the computation runs on."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in NO_CONFIG}


_PLACES = ("data_root", "cache", "out", "results")
NO_CONFIG = (*_PLACES, "accelerator", "devices", "strategy", "threads", "resume", "progress", "overridden")


def resolve(settings: S, presets: Presets) -> S:
    """The settings with every ``None`` that the preset knows about replaced; ``overridden`` names the others.

    ``presets[preset]["*"]`` holds the defaults for all estimators, ``presets[preset][estimator]`` what differs for one.
    """
    table = presets[settings.preset]
    defaults = {**table["*"], **table.get(settings.estimator, {})}
    missing = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    resolved = dataclasses.replace(settings, **missing)
    resolved.overridden = sorted(defaults.keys() - missing.keys())
    return resolved


def parse(
    settings: type[T],
    description: str,
    arguments: Sequence[str] | None = None,
    several: Mapping[str, tuple[Callable[[str], object], str]] | None = None,
) -> T:
    """The command line as settings. ``--data-root`` and ``--data_root`` are the same option.

    ``several`` are options of more than one word: the type of each word, and what ``--help`` says.
    """
    parser = ArgumentParser(description=description)
    parser.add_argument("--config", action="config", help="YAML file with options")
    parser.add_class_arguments(settings, skip=set(several or ()))
    for name, (kind, text) in (several or {}).items():
        parser.add_argument(f"--{name}", nargs="+", type=kind, help=text)
    given = sys.argv[1:] if arguments is None else arguments
    names = (word.partition("=") for word in given)
    words = [
        "--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else name + equals + value
        for name, equals, value in names
    ]
    chosen = parser.parse_args(words).as_dict()
    del chosen["config"]
    return settings(**chosen)


def command_line(main: Callable[[S], Mapping[str, Any]], settings: type[S], description: str) -> None:
    """Run a script's ``main`` with the settings of the command line, and print what came of it."""
    try:
        line = main(parse(settings, description))
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C. The same command with --resume true goes on from the last epoch.", file=sys.stderr)
        sys.exit(130)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(json.dumps({name: line[name] for name in ("method", "seed", "metrics", "calls", "seconds")}, indent=2))


# ---- Data in an order that seed and epoch decide. --------------------------------------------------------------------


def mixed(*numbers: int) -> int:
    """A seed that depends on all of the numbers, none of them negative."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def process() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class Batches(Sampler[Tensor]):
    """Batches of indices below ``count``: in a new order each epoch, or (``seed=None``) in the order of the data.

    Every process gets its share of each batch, the shares together being the batch that one process would get. For
    other kinds of batches override :meth:`draw` and :meth:`__len__`.
    """

    def __init__(self, count: int, size: int, seed: int | None = None) -> None:
        self.count, self.size, self.seed = count, size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning says which epoch comes."""
        self.epoch = epoch

    def draw(self, generator: torch.Generator | None) -> Iterator[Tensor]:
        """The batches of an epoch. In training all have the same size, and the remainder is left out."""
        if generator is None:
            yield from torch.arange(self.count).tensor_split(len(self))
        else:
            order = torch.randperm(self.count, generator=generator)
            yield from order[: len(self) * self.size].split(self.size)

    def __iter__(self) -> Iterator[Tensor]:
        """Of each batch, the share of this process."""
        rank, world = process()
        generator = None
        if self.seed is not None:
            if self.size % world:
                raise ValueError(f"batch_size: got {self.size}; expected a multiple of the {world} processes")
            generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch))
        for batch in self.draw(generator):
            yield batch[rank::world]

    def __len__(self) -> int:
        """How many batches an epoch has, in each process."""
        return self.count // self.size if self.seed is not None else math.ceil(self.count / self.size)


class Loaders(NamedTuple):
    """What a model is trained on, what its best epoch is chosen on, and what its numbers are from."""

    train: DataLoader[Any]
    validation: DataLoader[Any]
    test: DataLoader[Any]


def loader(data: Dataset[Any], batches: Batches) -> DataLoader[Any]:
    """A loader that asks ``data`` for a whole batch at once: ``data[indices]``, as a TensorDataset takes them."""
    return DataLoader(data, sampler=batches, batch_size=None)


# ---- The model's part that all share. --------------------------------------------------------------------------------


class Model(L.LightningModule):
    """Adam, temperatures that follow the steps, and the names under which things are logged: ``train/loss``,
    ``train/calls``, ``validation/<metric>``, ``test/<metric>``.
    """

    def __init__(self, settings: Settings, weight_decay: float = 0.0) -> None:
        super().__init__()
        assert settings.learning_rate is not None
        self.learning_rate, self.weight_decay = settings.learning_rate, weight_decay

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as in the paper."""
        parameters = self.parameters()
        return torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Cool the relaxed estimators."""
        for module in self.modules():
            if isinstance(module, GumbelSoftmax):
                module.anneal(self.global_step)

    def log_training(self, loss: Tensor, calls: Tensor, **more: Tensor) -> None:
        """Log means [] of a training step: the loss, and how many structures the downstream network saw an example."""
        values = {"loss": loss, "calls": calls, **more}
        for name, value in values.items():
            # the batches of training have one size: no weights
            value = value.detach().double()
            self.log(f"train/{name}", value, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=1)

    def log_evaluation(self, stage: Literal["validation", "test"], metrics: Mapping[str, Tensor], count: int) -> None:
        """Log means [] over ``count`` examples; the epoch's value is the mean over all examples of all processes."""
        for name, value in metrics.items():
            self.log(f"{stage}/{name}", value.detach().double(), on_epoch=True, sync_dist=True, batch_size=count)


class Reseed(Callback):
    """What a training step draws follows from seed, step and process; what an evaluation draws, from seed and process.

    Seeding once an epoch would not do: before the first step of an epoch Lightning draws once more where it did not
    start from a checkpoint.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A step of its own random numbers."""
        seed = mixed(self.seed, trainer.global_rank, 0, trainer.global_step)
        if pl_module.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # for all devices it takes longer than some steps
        else:
            torch.manual_seed(seed)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same random numbers at each validation: epochs are compared, not draws."""
        torch.manual_seed(mixed(self.seed, trainer.global_rank, 1))

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Others for the test."""
        torch.manual_seed(mixed(self.seed, trainer.global_rank, 2))


class History(Callback):
    """Metrics and seconds of training (without validation) after each epoch; part of the checkpoint."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._started = self._validation = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The clock starts."""
        self._started, self._validation = time.perf_counter(), 0.0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The clock stops."""
        self._validation -= time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The clock goes on."""
        self._validation += time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A row."""
        before = self.rows[-1]["seconds"] if self.rows else 0.0
        seconds = before + time.perf_counter() - self._started - self._validation
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, "seconds": seconds}
        self.rows.append({**row, **metrics})

    def columns(self) -> dict[str, list[float]]:
        """The rows as columns, to six digits."""
        names = self.rows[0] if self.rows else {}
        return {name: [float(f"{row[name]:.6g}") for row in self.rows] for name in names}

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.rows = list(state_dict["rows"])


# ---- A run. ----------------------------------------------------------------------------------------------------------


def quiet() -> None:
    """Leave out what Lightning says about matters that are decided here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # which devices there are, and tips
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # the images are in memory
    warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # Lightning under a new torch
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run that goes on


def on_cpu(settings: Settings) -> None:
    """How torch computes on the CPU."""
    torch.set_num_threads(settings.threads)
    # Adam's averages for pixels that are always black fade into numbers with which processors are ten times slower
    torch.set_flush_denormal(True)


def folder_of(settings: Settings, experiment: str) -> Path:
    """Where a run keeps logs and checkpoints: another folder for other settings, but for the number of epochs."""
    deciding = {**settings.config(), "epochs": None}
    digest = sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]
    return Path(settings.out) / experiment / f"{settings.estimator}-{settings.preset}-{settings.seed}-{digest}"


def run(
    model: Model,
    loaders: Loaders,
    settings: Settings,
    *,
    experiment: str,
    monitor: str,
    mode: Literal["min", "max"],
    data: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Train, choose the best epoch on the validation data, test it, and append the result to the results file.

    Parameters
    ----------
    model : Model
        It logs what its methods name.
    loaders : Loaders
    settings : Settings
        Resolved.
    experiment : str
        Name of the script.
    monitor : str
        The validation metric by which the best epoch is chosen, without ``validation/``.
    mode : {"min", "max"}
        Whether less of it is better, or more.
    data : mapping
        Provenance of the data, of JSON types.
    **more
        Further keys of the line, such as ``bits``.

    Returns
    -------
    dict
        The line: ``metrics`` are the test's, ``calls`` the mean over all of training, ``seconds`` those of training.
    """
    quiet()
    on_cpu(settings)
    folder = folder_of(settings, experiment)
    last = folder / "checkpoints" / "last.ckpt"
    history = History()
    best = ModelCheckpoint(
        folder / "checkpoints",
        filename="best",
        monitor=f"validation/{monitor}",
        mode=mode,
        save_last=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    callbacks: list[Callback] = [Reseed(settings.seed), history, best]
    if settings.progress:
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=settings.strategy,
        max_epochs=settings.epochs,
        logger=TensorBoardLogger(folder, name="", version=""),
        callbacks=callbacks,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=settings.progress,
        enable_model_summary=False,
        log_every_n_steps=max(1, min(50, len(loaders.train))),
    )
    if not settings.resume and trainer.is_global_zero:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        resumed = last if settings.resume and last.exists() else None
        trainer.fit(model, loaders.train, loaders.validation, ckpt_path=resumed)
    except SystemExit:  # what Lightning makes of Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    columns = history.columns()  # before the test, which takes the callbacks' state from the best epoch, too
    calls = columns["train/calls"]
    (metrics,) = trainer.test(model, loaders.test, ckpt_path=best.best_model_path, verbose=False)
    line = {
        "experiment": experiment,
        "method": settings.estimator,
        "preset": settings.preset,
        "seed": settings.seed,
        **more,
        "metrics": {name.removeprefix("test/"): value for name, value in metrics.items()},
        "calls": sum(calls) / len(calls),
        "calls_last_epoch": calls[-1],
        "seconds": columns["seconds"][-1],
        "best_epoch": len(history.rows),  # as the test left it
        "data": data,
        "config": settings.config(),
        "overridden": settings.overridden,  # of it, what is not the preset's
        "command": command(settings, experiment),
        "versions": versions(),
        "machine": machine(settings),
        "history": columns,
    }
    if trainer.is_global_zero:
        append_line(Path(settings.results) if settings.results else Path(settings.out) / "results.jsonl", line)
    return line


def command(settings: Settings, experiment: str) -> str:
    """The command that gives the same numbers."""
    options = (f"--{name}={value}" for name, value in settings.config().items() if value is not None)
    return f"python examples/{experiment}.py {shlex.join(options)}"


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    packages = ("torch", "lightning", "numpy")
    return {"python": platform.python_version(), "structlat": sl.__version__} | {x: version(x) for x in packages}


def machine(settings: Settings) -> dict[str, Any]:
    """What a run was computed on: seconds are those of this machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    accelerated = settings.accelerator != "cpu" and torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "accelerator": torch.cuda.get_device_name() if accelerated else settings.accelerator,
        "devices": settings.devices,
    }


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a JSON line by a single write: processes that share the file do not write into one another's lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (json.dumps(line) + "\n").encode()
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(file).st_size
        unfinished = size and os.pread(file, 1, size - 1) != b"\n"  # the machine went off in the middle of a line
        os.write(file, b"\n" + content if unfinished else content)
    finally:
        os.close(file)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file that were finished; none where there is no file."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines
