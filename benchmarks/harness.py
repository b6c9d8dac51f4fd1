"""What the benchmarks share: alternating timing, the facts beside a figure, tables, files.

Alternatives are timed in one process, in turn (A B A B ...), after a warm-up. A figure is the median of at least seven
runs, in milliseconds, with quartiles and extremes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

import structlat as sl

ROOT = Path(__file__).resolve().parent.parent
Call = Callable[[], object]
Case = dict[str, Any]


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="small sizes and few runs, to see that it works")
    made.add_argument("--runs", type=int, help="timed runs of each alternative (default: 7, with --quick 3)")
    made.add_argument("--out", type=Path, help="the JSON file (default: docs/results/; with --quick out/benchmarks/)")
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for, with defaults: ``quick``, ``runs`` (at least 2), ``name``, ``out`` and ``picture``."""
    options = made.parse_args()
    options.started = time.perf_counter()
    options.name = "benchmark_" + Path(sys.argv[0]).stem
    options.runs = max(options.runs or (3 if options.quick else 7), 2)
    home = ROOT / ("out/benchmarks" if options.quick else "docs")
    options.out_given = options.out is not None
    options.picture = options.out.with_suffix(".png") if options.out else home / f"images/{options.name}.png"
    options.out = options.out or home / f"results/{options.name}.json"
    return options


def all_threads() -> list[int]:
    """One thread, and as many as this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({1, cores})


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """``count`` threads, for torch and for structlat, which follows it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(call: Call) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(
    alternatives: Mapping[Any, Call],
    runs: int,
    least: float = 0.02,
    setups: Mapping[Any, Call] | None = None,
    counts: Mapping[Any, int] | None = None,
) -> dict[Any, list[float]]:
    """Seconds a call, ``runs`` times each, in turn; a short call is repeated until it fills ``least`` seconds.

    ``setups`` run before each run of their alternative, untimed (which is then not repeated), and ``counts`` say on how
    many threads an alternative runs.
    """
    setups, counts, repeats = setups or {}, counts or {}, {}

    def run(name: Any, times: int) -> float:
        setups.get(name, int)()
        with threads(counts.get(name, torch.get_num_threads())):
            start = time.perf_counter()
            for _ in range(times):
                alternatives[name]()
            return (time.perf_counter() - start) / times

    for name in alternatives:
        first = run(name, 1)
        if first < least:  # the first call may have loaded kernels
            first = run(name, 1)
        repeats[name] = 1 if name in setups else max(1, round(least / first))
    spent: dict[Any, list[float]] = {name: [] for name in alternatives}
    for _ in range(runs):
        for name in alternatives:
            spent[name].append(run(name, repeats[name]))
    return spent


def spread(spent: list[float]) -> dict[str, float]:
    """Median, quartiles and extremes in milliseconds."""
    low, middle, high = statistics.quantiles(spent, n=4, method="inclusive") if len(spent) > 1 else spent * 3
    named = {"median": middle, "quartile_1": low, "quartile_3": high, "min": min(spent), "max": max(spent)}
    return {name: round(1e3 * value, 5) for name, value in named.items()}


def load() -> float:
    """How many processes wanted a core in the last minute: above the threads in use, other work disturbed a figure."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else float("nan")


def normal(space: sl.Structure, batch: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Scores and extra scores, float64, normal with deviation ``scale``; each row has extra scores of its own."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [space.shape, *space.extra_shapes]
    drawn = [torch.randn(batch, *s, generator=generator, dtype=torch.float64).mul_(scale) for s in shapes]
    return drawn[0], drawn[1:]


def facts(*packages: str) -> Case:
    """What figures depend on: machine, versions and commit, without names of hosts or paths."""
    model, memory = platform.processor() or platform.machine(), None
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    with contextlib.suppress(AttributeError, ValueError, OSError):
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    found = {"python": platform.python_version(), "structlat": sl.__version__}
    for package in ("torch", "numpy", "numba", "scipy", *packages):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    machine = {"processor": model, "cores": os.cpu_count(), "memory_gib": memory, "system": platform.system()}
    return {"machine": machine, "versions": found, "commit": _commit()}


def _commit() -> str | None:
    """Of the code that is timed, with a word if it was changed since."""
    git = ["git", "-C", str(ROOT)]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL).strip()
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", "structlat", "oracles"], text=True)
        return commit + (" with changes" if changed.strip() else "")
    return None


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line a row, columns by the names of the first; figures with three digits."""
    shown = [{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    return str(tabulate(shown, headers="keys", tablefmt="github", disable_numparse=True))


def save(options: argparse.Namespace, results: list[Case], packages: Iterable[str] = (), **more: Any) -> None:
    """Write one object: what was run, where and with what, then the results."""
    asked = [f"--runs {options.runs}"] * (options.runs != 7) + ["--quick"] * options.quick
    what = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *asked]),
        **facts(*packages),
        "unit": "milliseconds, where not said otherwise",
        "runs": options.runs,
        "minutes": round((time.perf_counter() - options.started) / 60, 2),
        **more,
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    beside = options.out.with_suffix(".part")
    beside.write_text(json.dumps(what, indent=1) + "\n")
    beside.replace(options.out)
    print("written:", options.out)


def pyplot() -> ModuleType:
    """Of matplotlib, which only benchmarks with a picture need, without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def picture(figure: Any, path: Path) -> None:
    """Write a figure beside its place, then put it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    figure.savefig(beside, dpi=120, format="png")
    beside.replace(path)
    print("written:", path)
