"""sparsemax and entmax15 against the ``entmax`` package: one process, alternating, medians.

``entmax`` is timed as its users call it (it sorts everything) and with ``k=100`` (it sorts the 100 largest, and starts
again where that was not enough). Scores are normal; at scale 0.01 the support of entmax15 is nearly half of the
entries.

    python benchmarks/simplex.py
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import entmax
import torch
from torch import Tensor

import structlat as sl

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "benchmark_simplex.json"
SIZES = [((64, 256), 1.0), ((1024, 10_000), 1.0), ((64, 100_000), 1.0), ((64, 100_000), 0.01)]
SMALL = [((64, 256), 1.0), ((16, 4_000), 1.0)]
# The largest difference allowed between the answers: p, and the gradient for a normal cotangent.
AGREE = {torch.float32: (1e-6, 1e-4), torch.float64: (1e-12, 1e-9)}


def machine() -> dict[str, Any]:
    """What the figures depend on, without names."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {"processor": model, "cores": os.cpu_count(), "system": platform.system()}


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of packages."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def alternate(alternatives: dict[str, Callable[[], Any]], runs: int, least: float = 0.02) -> dict[str, list[float]]:
    """Seconds a call, ``runs`` times each, in turn; a short call is repeated for ``least`` seconds."""
    repeats = {}
    for name, call in alternatives.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(least / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(runs):
        for name, call in alternatives.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            seconds[name].append((time.perf_counter() - start) / repeats[name])
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, quartiles and extremes in milliseconds."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    named = {"median": middle, "quartile_1": low, "quartile_3": high, "min": min(seconds), "max": max(seconds)}
    return {name: round(1e3 * value, 5) for name, value in named.items()}


def table(header: list[str], lines: list[list[str]]) -> str:
    """Columns of equal width, in Markdown."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    ruled = [header, ["-" * width for width in widths], *lines]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in ruled)


def save(path: Path, results: list[dict[str, Any]], **settings: Any) -> None:
    """Write one object: what was run, where and with what, then the results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]])
    what = {"command": command, **settings, "unit": "milliseconds", "machine": machine(), "results": results}
    path.write_text(json.dumps(what, indent=1) + "\n")


def both_ways(fn: Callable[[Tensor], Tensor], leaf: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """P and the gradient of <p, cotangent>."""
    p = fn(leaf)
    return p.detach(), torch.autograd.grad(p, leaf, cotangent)[0]


def compare(name: str, shape: tuple[int, int], scale: float, dtype: torch.dtype, runs: int) -> list[dict[str, Any]]:
    """Time one map at one size, forward and forward + backward, after holding the answers against each other."""
    x = (scale * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)
    cotangent = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    ours, theirs = getattr(sl, name), getattr(entmax, name)
    maps: dict[str, Callable[[Tensor], Tensor]] = {
        "structlat": ours,
        "entmax": lambda x: theirs(x, dim=-1),
        "entmax, k=100": lambda x: theirs(x, dim=-1, k=100),
    }
    leaf = x.clone().requires_grad_()
    found = {which: both_ways(fn, leaf, cotangent) for which, fn in maps.items()}
    differences = [max(float((found["structlat"][i] - found[w][i]).abs().max()) for w in found) for i in range(2)]
    if any(map(float.__gt__, differences, AGREE[dtype])):
        raise SystemExit(f"{name} at {shape}, scale {scale}, {dtype}: the answers differ by {differences}")
    modes: dict[str, dict[str, Callable[[], Any]]] = {
        "forward": {which: partial(fn, x) for which, fn in maps.items()},
        "forward + backward": {which: partial(both_ways, fn, leaf, cotangent) for which, fn in maps.items()},
    }
    case = {
        "map": name,
        "shape": shape,
        "scale": scale,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "mean_support": round(float((found["structlat"][0] > 0).sum(-1).double().mean()), 1),
        "difference": {"p": differences[0], "gradient": differences[1]},
    }
    results = []
    for mode, alternatives in modes.items():
        timed = {which: spread(seconds) for which, seconds in alternate(alternatives, runs).items()}
        ratios = {w: round(timed[w]["median"] / timed["structlat"]["median"], 2) for w in timed if w != "structlat"}
        busy = round(os.getloadavg()[0], 1)  # of other work too: above the number of threads, parallel figures are off
        results.append({**case, "mode": mode, "times": timed, "times_faster": ratios, "load_average": busy})
    return results


def line(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    times, faster = result["times"], result["times_faster"]
    return [
        result["map"],
        f"{result['shape'][0]} x {result['shape'][1]}",
        f"{result['scale']:g}",
        result["dtype"],
        str(result["threads"]),
        result["mode"],
        *(f"{times[which]['median']:.3g}" for which in times),
        *(f"{faster[which]:.3g}" for which in faster),
    ]


def main() -> None:
    """Run everything, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each alternative")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = []
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        for shape, scale in SMALL if options.quick else SIZES:
            for dtype in AGREE:
                for name in ("sparsemax", "entmax15"):
                    results += compare(name, shape, scale, dtype, options.runs)
                    print(*(" ".join(line(result)) for result in results[-2:]), sep="\n", flush=True)
    header = ["map", "size", "scale", "dtype", "threads", "mode", *results[0]["times"]]
    header = [*header[:6], *(f"{which}, ms" for which in header[6:]), "times faster", "than k=100"]
    print(table(header, list(map(line, results))))
    save(options.out, results, runs=options.runs, versions=versions("torch", "numba", "numpy", "entmax", "structlat"))


if __name__ == "__main__":
    main()
