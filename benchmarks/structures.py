"""Time of sparsemap by structure: forward, and forward + backward, by batch and by scale of the scores.

Three ways of use. "marginals": solver "auto", only ``mean`` is read. "all": ``mean``, ``probs`` and ``structures`` are
read, and the gradient goes through the first two. "active set": as "marginals", the closed form of bits and budgets
switched off. Backward through ``mean`` has the optimal face completed wherever there is no closed form.

The batch varies at scale 1 and the scale at batch 64. What would take longer a run than --limit is left out, and what
would need more than 1 GiB for the structures alone: the file says which.

    python benchmarks/structures.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from harness import (
    Call,
    Case,
    all_threads,
    alternate,
    load,
    normal,
    parse,
    parser,
    save,
    seconds,
    spread,
    table,
    threads,
)
from torch import Tensor

import structlat as sl

SPACES: dict[str, sl.Structure] = {
    "bits 32": sl.BitVector(32),
    "bits 128": sl.BitVector(128),
    "bits 1000": sl.BitVector(1000),
    "budget 32": sl.BudgetBitVector(32, 16),
    "budget 128": sl.BudgetBitVector(128, 64),
    "budget 1000": sl.BudgetBitVector(1000, 500),
    "chain 20x5": sl.LinearChain(20, 5),
    "chain 40x10": sl.LinearChain(40, 10),
    "chain 100x20": sl.LinearChain(100, 20),
    "matching 10x10": sl.BipartiteMatching(10, 10),
    "matching 30x30": sl.BipartiteMatching(30, 30),
}
SIZES = [(1, 1.0), (64, 1.0), (1024, 1.0), (64, 0.1), (64, 3.0)]
QUICK = {"bits 32": [(1, 1.0), (16, 1.0)], "chain 20x5": [(4, 1.0)], "matching 10x10": [(4, 3.0)]}
MODES = ("forward", "forward + backward")
GIB = 2**30
PROBE = 16  # rows from which the time of a whole batch is predicted

Way = Callable[[sl.Structure, Tensor, list[Tensor]], tuple[Tensor, ...]]


def marginals(space: sl.Structure, scores: Tensor, extra: list[Tensor], solver: str = "auto") -> tuple[Tensor, ...]:
    """What has a gradient, when only the marginals are read."""
    return (sl.sparsemap(space, scores, *extra, solver=solver).mean,)


def everything(space: sl.Structure, scores: Tensor, extra: list[Tensor]) -> tuple[Tensor, ...]:
    """The same when structures and probabilities are read too."""
    post = sl.sparsemap(space, scores, *extra)
    assert post.structures.numel()
    return post.mean, post.probs


def ways(space: sl.Structure) -> Iterator[tuple[str, Way]]:
    """The ways to use a space."""
    yield "marginals", marginals
    yield "all", everything
    if isinstance(space, (sl.BitVector, sl.BudgetBitVector)) and space.shape[0] <= 128:
        yield "active set", partial(marginals, solver="active_set")


def call(way: Way, space: sl.Structure, scores: Tensor, extra: list[Tensor], backward: bool) -> Call:
    """What is timed."""
    if not backward:
        return lambda: way(space, scores, extra)
    leaf = scores.clone().requires_grad_()
    cotangents: list[Tensor] = []

    def both() -> None:
        out = way(space, leaf, extra)
        if not cotangents:  # drawn in the first call, which is not timed
            generator = torch.Generator().manual_seed(1)
            cotangents.extend(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in out)
        torch.autograd.grad(out, leaf, cotangents)

    return both


def why_not(way: Way, space: sl.Structure, batch: int, scale: float, backward: bool, limit: float) -> str | None:
    """A reason to leave this out: too much memory, or too long by the time that fewer rows take."""
    if way is everything and isinstance(space, (sl.BitVector, sl.BudgetBitVector)):
        size = batch * (space.shape[0] + 1) * space.shape[0] * 8 / GIB
        if size > 1:
            return f"its structures alone take up to {size:.1f} GiB"
    rows = 1
    while True:
        probe = call(way, space, *normal(space, rows, scale), backward)
        probe()
        spent = seconds(probe)
        predicted = spent * batch / rows
        if rows >= min(batch, PROBE) or spent > limit:
            break
        rows = min(batch, PROBE)
    return f"predicted {predicted:.3g} s a run" if predicted > limit else None


def measure(name: str, batch: int, scale: float, options: argparse.Namespace) -> tuple[list[Case], list[Case]]:
    """Times of one space at one size, and what of it is left out."""
    space = SPACES[name]
    scores, extra = normal(space, batch, scale)
    case = {"structure": name, "batch": batch, "scale": scale}
    left_out: list[Case] = []
    alternatives: dict[tuple[str, str, int], Call] = {}
    for way_name, way in ways(space):
        for mode in MODES:
            for count in all_threads():
                with threads(count):
                    why = why_not(way, space, batch, scale, mode != "forward", options.limit)
                if why:
                    left_out.append({**case, "read": way_name, "mode": mode, "threads": count, "why": why})
                else:
                    alternatives[way_name, mode, count] = call(way, space, scores, extra, mode != "forward")
    spent = alternate(alternatives, options.runs, counts={key: key[2] for key in alternatives})
    busy = load()
    results = [
        {**case, "read": way, "mode": mode, "threads": count, "ms": spread(times), "load_average": busy}
        for (way, mode, count), times in spent.items()
    ]
    return results, left_out


def line(result: Case) -> Case:
    """One line of the table."""
    shown = {key: result[key] for key in ("structure", "batch", "scale", "read", "mode", "threads")}
    return {
        **shown,
        "ms": result["ms"]["median"],
        "quartiles": "{quartile_1:.3g} to {quartile_3:.3g}".format(**result["ms"]),
    }


def main() -> None:
    """Run everything, print a table, write JSON."""
    made = parser(__doc__)
    made.add_argument("--limit", type=float, default=1.0, help="seconds a run beyond which a case is left out")
    options = parse(made)
    torch.set_num_threads(1)
    results: list[Case] = []
    left_out: list[Case] = []
    for name in QUICK if options.quick else SPACES:
        for batch, scale in QUICK[name] if options.quick else SIZES:
            done, out = measure(name, batch, scale, options)
            results, left_out = results + done, left_out + out
            print(name, batch, scale, *(f"{r['ms']['median']:.3g}" for r in done), flush=True)
    print(table(map(line, results)))
    if left_out:
        print("\nLeft out:\n" + table(left_out))
    print("\nLeft out by design: batch 1 and 1,024 at scales 0.1 and 3; the active set on bits and budgets of 1,000.")
    save(options, results, limit_seconds=options.limit, left_out=left_out)


if __name__ == "__main__":
    main()
