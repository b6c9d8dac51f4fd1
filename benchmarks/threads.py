"""One thread against all of them, at batch 1,024.

The active set (the closed form of bits switched off), the closed forms, top-10; forward, and forward + backward.

    python benchmarks/threads.py
"""

from __future__ import annotations

from functools import partial

import torch
from harness import Call, Case, all_threads, alternate, load, normal, parse, parser, save, spread, table
from torch import Tensor

import structlat as sl

# name, space, solver (None: topk_sparsemax)
CASES: list[tuple[str, sl.Structure, str | None]] = [
    ("bits 128, active set", sl.BitVector(128), "active_set"),
    ("chain 20x5", sl.LinearChain(20, 5), "auto"),
    ("matching 10x10", sl.BipartiteMatching(10, 10), "auto"),
    ("bits 128, closed form", sl.BitVector(128), "auto"),
    ("budget 128, closed form", sl.BudgetBitVector(128, 64), "auto"),
    ("bits 128, top 10", sl.BitVector(128), None),
    ("chain 20x5, top 10", sl.LinearChain(20, 5), None),
]


def solve(space: sl.Structure, solver: str | None, scores: Tensor, extra: list[Tensor]) -> Tensor:
    """The marginals."""
    if solver is None:
        return sl.topk_sparsemax(space, scores, *extra).mean
    return sl.sparsemap(space, scores, *extra, solver=solver).mean


def gradient(space: sl.Structure, solver: str | None, leaf: Tensor, extra: list[Tensor]) -> object:
    """The gradient of the marginals."""
    return torch.autograd.grad(solve(space, solver, leaf, extra), leaf, leaf.detach())


def measure(name: str, space: sl.Structure, solver: str | None, batch: int, runs: int) -> list[Case]:
    """Times of one case on one thread and on all, in turn."""
    scores, extra = normal(space, batch)
    modes: dict[str, Call] = {
        "forward": partial(solve, space, solver, scores, extra),
        "forward + backward": partial(gradient, space, solver, scores.clone().requires_grad_(), extra),
    }
    results = []
    for mode, call in modes.items():
        counts = {count: count for count in all_threads()}
        spent = alternate(dict.fromkeys(counts, call), runs, counts=counts)
        times = {count: spread(each) for count, each in spent.items()}
        for count in times:
            faster = round(times[1]["median"] / times[count]["median"], 2)
            case = {"case": name, "batch": batch, "mode": mode, "threads": count}
            results.append({**case, "ms": times[count], "times_faster": faster, "load_average": load()})
    return results


def line(result: Case) -> Case:
    """One line of the table."""
    shown = {key: result[key] for key in ("case", "batch", "mode", "threads")}
    return {**shown, "ms": result["ms"]["median"], "times faster than one": result["times_faster"]}


def main() -> None:
    """Run everything, print a table, write JSON."""
    options = parse(parser(__doc__))
    results: list[Case] = []
    for name, space, solver in CASES:
        results += measure(name, space, solver, 64 if options.quick else 1024, options.runs)
        print(name, *(f"{result['ms']['median']:.3g}" for result in results[-4:]), flush=True)
    print(table(map(line, results)))
    save(options, results)


if __name__ == "__main__":
    main()
