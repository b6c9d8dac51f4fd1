"""Options of the experiments of this folder: presets, command lines.

A script brings a dataclass that extends :class:`Settings`, with a table of presets, and gets its command line from
:func:`command_line`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from jsonargparse import ArgumentParser

S = TypeVar("S", bound="Settings")
T = TypeVar("T")
Presets = Mapping[str, Mapping[str, Mapping[str, Any]]]


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

    def presets(self) -> Presets:
        """By preset and estimator: values for all of these under "*", and what differs for one under its name."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """What decides the numbers: all but where files lie and what the computation runs on."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in NO_CONFIG}


_PLACES = ("data_root", "cache", "out", "results")
NO_CONFIG = (*_PLACES, "accelerator", "devices", "strategy", "threads", "resume", "progress")


def resolve(settings: S) -> S:
    """The settings with every ``None`` that the preset knows about replaced."""
    table = settings.presets()[settings.preset]
    defaults = {**table["*"], **table.get(settings.estimator, {})}
    missing = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    return dataclasses.replace(settings, **missing)


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
