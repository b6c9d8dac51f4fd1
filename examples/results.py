"""Results of the experiments: JSON lines in a file, and what each says of where it is from."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from options import Settings

import structlat as sl


def command(settings: Settings, experiment: str) -> str:
    """The command that gives the same numbers."""
    options = (f"--{name}={value}" for name, value in settings.config().items() if value is not None)
    return f"python examples/{experiment}.py {shlex.join(options)}"


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    packages = ("torch", "lightning", "numpy")
    own = {"python": platform.python_version(), "structlat": sl.__version__} | {x: version(x) for x in packages}
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        own["commit"] = subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    return own


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
    """Append a JSON line. Processes that share the file, on this machine or another, take turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (json.dumps(line) + "\n").encode()
    with FileLock(path.with_name(f".{path.name}.lock")), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # the machine went off in the middle of a line
                content = b"\n" + content
        file.write(content)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file that were finished; none where there is no file."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines
