"""A Lightning trainer that resumes to the same numbers, and one JSON line for each finished run.

A script brings settings (``options.py``), a :class:`Model` and three loaders (``batches.py``), and hands them to
:func:`run`, which writes the line (``results.py``).

Everything random follows from the seed and from how far training is: the order of the data from the epoch
(:class:`batches.Batches`), all that a training step draws from the step and the process (:class:`Reseed`). So a
checkpoint, which holds weights, buffers, optimizer and history, needs no state of a generator to go on to the same
numbers, with several processes as with one. What is drawn is drawn in the step, from torch's generator, and not by the
loader.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from batches import Loaders, mixed
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from options import Settings
from results import append_line, command, machine, versions
from torch import Tensor, nn

from structlat.estimators import Estimator


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
            if isinstance(module, Estimator):
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


@contextlib.contextmanager
def interruptible(trainer: L.Trainer) -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt again: Lightning makes a SystemExit of it."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise


def baseline_network(size: int) -> nn.Module:
    """What NVIL's baseline is in the paper's code: ``size`` numbers to one, through three hidden layers of 512."""
    layers: list[nn.Module] = []
    for before in (size, 512, 512):
        layers += [nn.Linear(before, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 1))


def folder_of(settings: Settings, experiment: str, data: Mapping[str, Any]) -> Path:
    """Where a run keeps logs and checkpoints: one folder for the same data and settings but for how many epochs."""
    deciding = {**settings.config(), "epochs": None, "data": data}
    digest = sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]
    return Path(settings.out) / experiment / f"{settings.estimator}-{settings.preset}-{settings.seed}-{digest}"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other run of the same settings writes to the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_suffix(".lock"), timeout=0):
            yield
    except Timeout:
        raise RuntimeError(f"{folder}: another run of the same settings is at work there") from None


def check_epochs(settings: Settings, checkpoint: Path) -> None:
    """A run that went on for longer cannot be taken back."""
    callbacks = torch.load(checkpoint, map_location="cpu", weights_only=False)["callbacks"]
    done = len(callbacks[History.__qualname__]["rows"])
    if settings.epochs is not None and done > settings.epochs:
        raise ValueError(
            f"epochs: got {settings.epochs}; expected {done} at least, as {checkpoint} has, or a start from nothing, "
            "without resume"
        )


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
    folder = folder_of(settings, experiment, data)
    history = History()
    always: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(
        folder / "checkpoints", filename="best", monitor=f"validation/{monitor}", mode=mode, **always
    )
    # of its own, after the other: save_last is written where an epoch is the best, and that may be long ago
    last = ModelCheckpoint(folder / "checkpoints", filename="last", **always)
    callbacks: list[Callback] = [Reseed(settings.seed), history, best, last]
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
    with alone(folder) if trainer.is_global_zero else contextlib.nullcontext(), interruptible(trainer):
        if not settings.resume and trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
        before = folder / "checkpoints" / "last.ckpt"
        resumed = before if settings.resume and before.exists() else None
        if resumed is not None:
            check_epochs(settings, resumed)
        trainer.fit(model, loaders.train, loaders.validation, ckpt_path=resumed)
        columns = history.columns()  # before the test, which takes the callbacks' state from the best epoch, too
        (metrics,) = trainer.test(model, loaders.test, ckpt_path=best.best_model_path, verbose=False)
    calls = columns["train/calls"]
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
        "command": command(settings, experiment),
        "versions": versions(),
        "machine": machine(settings),
        "history": columns,
    }
    if trainer.is_global_zero:
        append_line(Path(settings.results) if settings.results else Path(settings.out) / "results.jsonl", line)
    return line
