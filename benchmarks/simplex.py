"""sparsemax and entmax15 against the ``entmax`` package: one process, alternating, medians.

``entmax`` is timed as its users call it (it sorts everything) and with ``k=100`` (it sorts the 100 largest, and starts
again where that was not enough). Scores are normal; at scale 0.01 the support of entmax15 is nearly half of the
entries.

    python benchmarks/simplex.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import entmax
import torch
from harness import Case, all_threads, alternate, load, parse, parser, save, spread, table
from torch import Tensor

import structlat as sl

SIZES = [((64, 256), 1.0), ((1024, 10_000), 1.0), ((64, 100_000), 1.0), ((64, 100_000), 0.01)]
SMALL = [((64, 256), 1.0), ((16, 4_000), 1.0)]
# The largest difference allowed between the answers: p, and the gradient for a normal cotangent.
AGREE = {torch.float32: (1e-6, 1e-4), torch.float64: (1e-12, 1e-9)}


def both_ways(fn: Callable[[Tensor], Tensor], leaf: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """P and the gradient of <p, cotangent>."""
    p = fn(leaf)
    return p.detach(), torch.autograd.grad(p, leaf, cotangent)[0]


def compare(name: str, shape: tuple[int, int], scale: float, dtype: torch.dtype, runs: int) -> list[Case]:
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
        results.append({**case, "mode": mode, "times": timed, "times_faster": ratios, "load_average": load()})
    return results


def line(result: Case) -> Case:
    """One line of the table."""
    shown = {key: result[key] for key in ("map", "scale", "dtype", "threads", "mode")}
    size = {"size": "{} x {}".format(*result["shape"])}
    times = {f"{which}, ms": spent["median"] for which, spent in result["times"].items()}
    ratios = {f"times faster than {which}": ratio for which, ratio in result["times_faster"].items()}
    return {**size, **shown, **times, **ratios}


def main() -> None:
    """Run everything, print a table, write JSON."""
    options = parse(parser(__doc__))
    results: list[Case] = []
    for threads in all_threads():
        torch.set_num_threads(threads)
        for shape, scale in SMALL if options.quick else SIZES:
            for dtype in AGREE:
                for name in ("sparsemax", "entmax15"):
                    results += compare(name, shape, scale, dtype, options.runs)
                    print(*(" ".join(map(str, line(result).values())) for result in results[-2:]), sep="\n", flush=True)
    print(table(map(line, results)))
    save(options, results, ("entmax",))


if __name__ == "__main__":
    main()
