"""How time and peak memory grow with the batch, the number of bits, the length and the states of a chain.

One thread, scores of scale 1. Each curve has the exponent fitted to it (least squares, log against log, over the
upper half of its points for time, where fixed costs no longer show; over all points above 1 MiB for memory).

Peak memory is the largest resident size of a process of its own, less what it had once structlat was imported and the
scores were made; for the curves, a first small problem has been solved before, so that loading the kernels does not
count. "bits 1000" at batch 1,024, marginals and their gradient, is measured without such a first problem.

    python benchmarks/growth.py
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from harness import Case, alternate, load, normal, parse, parser, picture, pyplot, save, seconds, spread, table

import structlat as sl

TARGET = 256  # MiB, of bits 1000 at batch 1,024


class Curve(NamedTuple):
    """Spaces by the value of one axis; ``batch`` where the batch is not that axis."""

    axis: str
    values: tuple[int, ...]
    space: Callable[[int], sl.Structure]
    batch: int | None
    solver: str = "auto"
    backward: bool = True


def always(space: sl.Structure) -> Callable[[int], sl.Structure]:
    """The same space whatever the value."""
    return lambda _: space


BATCH, BITS = (4, 16, 64, 256, 1024), (32, 64, 128, 256, 512)
CURVES = {
    "bits 128": Curve("batch", (*BATCH, 4096), always(sl.BitVector(128)), None),
    "budget 128": Curve("batch", (*BATCH, 4096), always(sl.BudgetBitVector(128, 64)), None),
    "bits 128, active set": Curve("batch", BATCH, always(sl.BitVector(128)), None, "active_set", False),
    "chain 20x5": Curve("batch", BATCH, always(sl.LinearChain(20, 5)), None),
    "matching 10x10": Curve("batch", BATCH, always(sl.BipartiteMatching(10, 10)), None),
    "bits, batch 64": Curve("D", (*BITS, 1024, 4096), sl.BitVector, 64),
    "budget D/2, batch 64": Curve("D", (*BITS, 1024, 4096), lambda n: sl.BudgetBitVector(n, n // 2), 64),
    "bits, active set, batch 16": Curve("D", BITS, sl.BitVector, 16, "active_set", False),
    "bits, active set, batch 16, with gradient": Curve("D", BITS[:-1], sl.BitVector, 16, "active_set"),
    "n x 5, batch 16": Curve("length of a chain", (10, 20, 40, 80, 160), lambda n: sl.LinearChain(n, 5), 16),
    "20 x n, batch 16": Curve("states of a chain", (3, 6, 12, 24, 48), lambda n: sl.LinearChain(20, n), 16),
    "n x n, batch 16": Curve("rows of a matching", (5, 10, 20, 40), lambda n: sl.BipartiteMatching(n, n), 16),
}
QUICK = ("bits 128", "n x 5, batch 16")


def marginals(curve: Curve, value: int) -> Callable[[], Any]:
    """A call that solves one point of a curve, and takes the gradient."""
    space = curve.space(value)
    scores, extra = normal(space, curve.batch or value)
    if not curve.backward:
        return lambda: sl.sparsemap(space, scores, *extra, solver=curve.solver).mean
    leaf = scores.requires_grad_()

    def both() -> object:
        mean = sl.sparsemap(space, leaf, *extra, solver=curve.solver).mean
        return torch.autograd.grad(mean, leaf, leaf.detach())

    return both


def fit(points: list[tuple[float, float]]) -> float | None:
    """The exponent b of y = a x^b, by least squares in logarithms."""
    if len(points) < 2:
        return None
    xs, ys = ([math.log(point[i]) for point in points] for i in range(2))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)
    return round(slope, 3)


def _child(pipe: Connection, name: str, value: int, first: int | None) -> None:
    """Solve one point in a process of its own; send how much its largest resident size grew, in MiB."""
    torch.set_num_threads(1)
    curve = CURVES.get(name) or Curve("batch", (), always(sl.BitVector(1000)), None)
    if first is not None:
        small = curve if curve.batch is None else curve._replace(batch=1)
        marginals(small, first)()
    solve = marginals(curve, value)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    solve()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    pipe.send(grown / (2**20 if sys.platform == "darwin" else 2**10))


def peak_memory(name: str, value: int, first: int | None) -> float:
    """MiB by which solving one point raises the largest resident size; ``first``: a small one is solved before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["structlat"])  # imported once: each child starts from there
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(send, name, value, first))
    child.start()
    send.close()
    grown = float(receive.recv())
    child.join()
    return round(grown, 2)


def measure(name: str, options: argparse.Namespace) -> Case:
    """Time and memory along one curve."""
    curve = CURVES[name]
    values = curve.values[:3] if options.quick else curve.values
    times, memory, left_out = {}, {}, []
    for value in values:
        solve = marginals(curve, value)
        solve()
        took = seconds(solve)
        if took > options.limit:
            left_out.append({"value": value, "why": f"{took:.3g} s a run"})
            break
        times[value] = spread(alternate({0: solve}, options.runs)[0])
        memory[value] = peak_memory(name, value, curve.values[0])
    upper = list(times)[len(times) // 2 - 1 :] if len(times) > 2 else list(times)
    return {
        "curve": name,
        "axis": curve.axis,
        "what": "marginals and gradient" if curve.backward else "marginals",
        "values": list(times),
        "ms": list(times.values()),
        "mib": list(memory.values()),
        "exponent_time": fit([(value, times[value]["median"]) for value in upper]),
        "exponent_memory": fit([(value, size) for value, size in memory.items() if size > 1]),
        "left_out": left_out,
        "load_average": load(),
    }


def line(result: Case) -> Case:
    """One line of the table."""
    shown = {key: result[key] for key in ("axis", "curve", "what")}
    ends = {"from": result["values"][0], "to": result["values"][-1]}
    figures = {"ms": result["ms"][-1]["median"], "exponent of time": result["exponent_time"], "MiB": result["mib"][-1]}
    return {**shown, **ends, **figures, "exponent of memory": result["exponent_memory"]}


def draw(results: list[Case]) -> Any:
    """Time above, memory below, a column an axis."""
    axes = list(dict.fromkeys(result["axis"] for result in results))
    figure, plots = pyplot().subplots(2, len(axes), figsize=(3.8 * len(axes), 7), squeeze=False, layout="constrained")
    for result in results:
        column = axes.index(result["axis"])
        for row, (key, ys) in enumerate({"time": [t["median"] for t in result["ms"]], "memory": result["mib"]}.items()):
            exponent = result[f"exponent_{key}"]
            label = result["curve"] + ("" if exponent is None else f": exponent {exponent:.2f}")
            kept = [(x, y) for x, y in zip(result["values"], ys, strict=True) if y > 0]
            if kept:
                plots[row][column].loglog(*zip(*kept, strict=True), "o-", markersize=3, label=label)
            plots[row][column].set_xlabel(result["axis"])
            ticks = sorted({x for other in results if other["axis"] == result["axis"] for x in other["values"]})
            plots[row][column].set_xticks(ticks, [str(x) for x in ticks])
    for plot in plots.flat:
        plot.minorticks_off()
        plot.grid(visible=True, alpha=0.3)
        plot.spines[["top", "right"]].set_visible(False)
        if plot.get_legend_handles_labels()[0]:  # a peak of memory may be too small to be seen
            plot.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1))
    plots[0][0].set_ylabel("ms")
    plots[1][0].set_ylabel("peak memory, MiB")
    return figure


def main() -> None:
    """Run everything, print a table, write JSON and a picture."""
    made = parser(__doc__)
    made.add_argument("--limit", type=float, default=2.0, help="seconds a run beyond which a curve ends")
    options = parse(made)
    torch.set_num_threads(1)
    rows = 64 if options.quick else 1024
    target = {
        "what": f"bits 1000, batch {rows}, marginals and their gradient",
        "mib": peak_memory("target", rows, None),
        "target_mib": TARGET,
    }
    print(f"peak memory of {target['what']}: {target['mib']:.1f} MiB; to reach: under {TARGET}", flush=True)
    results = []
    for name in QUICK if options.quick else CURVES:
        results.append(measure(name, options))
        print(*line(results[-1]).values(), sep="  ", flush=True)
    print(table(map(line, results)))
    save(options, results, threads=1, limit_seconds=options.limit, peak_memory=target)
    picture(draw(results), options.picture)


if __name__ == "__main__":
    main()
