"""The solvers against each other, to three tolerances, and what a warm start saves.

Batch 64, one thread. The tolerance is that of ``sparsemap``: relative to gamma times the largest squared norm of a
vertex. Every solver ends with the corrective step, so the answer's own gap, which is shown too, is often far smaller;
rows that only that step brings under the tolerance have rounds "at the cap" of --rounds. A solver that leaves a row
above the tolerance is not timed there. Bits have their closed form switched off.
What takes longer than --limit seconds is timed once.

    python benchmarks/solvers.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from harness import Call, Case, alternate, load, normal, parse, parser, picture, pyplot, save, seconds, spread, table

import structlat as sl
import structlat.plot

SPACES: dict[str, sl.Structure] = {
    "bits 32": sl.BitVector(32),
    "chain 20x5": sl.LinearChain(20, 5),
    "matching 10x10": sl.BipartiteMatching(10, 10),
}
SOLVERS = ("active_set", "active_set_torch", "vanilla", "away", "pairwise", "blended_pairwise")
TOLERANCES = (1e-3, 1e-6, 1e-9)
CHANGES = (1e-3, 1e-2, 1e-1)


def compare(name: str, batch: int, options: argparse.Namespace) -> tuple[list[Case], dict[str, Any]]:
    """Times and counts of all solvers on one space, and their answers at the smallest tolerance, with traces."""
    space = SPACES[name]
    scores, extra = normal(space, batch)
    solve = partial(sl.sparsemap, space, scores, *extra, on_failure="ignore")
    settings = {s: {} if s.startswith("active") else {"max_iter": options.rounds} for s in SOLVERS}
    traced = {s: solve(solver=s, tol=TOLERANCES[-1], trace=True, **settings[s]) for s in SOLVERS}
    results: list[Case] = []
    for tol in TOLERANCES:
        calls: dict[str, Call] = {}
        once: dict[str, list[float]] = {}
        cases: dict[str, Case] = {}
        for s in SOLVERS:
            call = partial(solve, solver=s, tol=tol, **settings[s])
            hopeless = tol == TOLERANCES[-1] and not bool(traced[s].info.converged.all())
            info = (traced[s] if hopeless else call()).info
            if bool(info.converged.all()):
                took = seconds(call)
                if took > options.limit:
                    once[s] = [took]
                else:
                    calls[s] = call
            cases[s] = {
                "structure": name,
                "batch": batch,
                "solver": s,
                "tolerance": tol,
                "converged": round(float(info.converged.double().mean()), 4),
                "oracle_calls": round(float(info.oracle_calls.double().mean()), 2),
                "rounds": round(float(info.iterations.double().mean()), 2),
                "at_the_cap": round(
                    float((info.iterations >= settings[s].get("max_iter", math.inf)).double().mean()), 4
                ),
                "gap": float(info.gap.max()),
            }
        spent = {**alternate(calls, options.runs), **once}
        for s, case in cases.items():
            timed = (
                {"ms": spread(spent[s]), "timed_runs": len(spent[s])} if s in spent else {"ms": None, "timed_runs": 0}
            )
            results.append({**case, **timed, "load_average": load()})
    return results, traced


def warm(name: str, batch: int, scale: float, options: argparse.Namespace) -> list[Case]:
    """Rounds and times with and without the earlier answer, after changes of the scores."""
    space = SPACES[name]
    scores, extra = normal(space, batch, scale)
    noise = normal(space, batch, seed=1)[0]
    before = sl.sparsemap(space, scores, *extra)
    results = []
    for change in CHANGES:
        solve = partial(sl.sparsemap, space, scores + change * noise, *extra)
        calls = {"cold": solve, "warm": partial(solve, init=before)}
        infos = {start: call().info for start, call in calls.items()}
        rounds = {start: round(float(info.iterations.double().mean()), 2) for start, info in infos.items()}
        asked = {start: round(float(info.oracle_calls.double().mean()), 2) for start, info in infos.items()}
        spent = {start: spread(times) for start, times in alternate(calls, options.runs).items()}
        results.append(
            {
                "structure": name,
                "batch": batch,
                "scale": scale,
                "change": change,
                "rounds": rounds,
                "oracle_calls": asked,
                "times_fewer_rounds": round(rounds["cold"] / rounds["warm"], 2),
                "ms": spent,
                "times_faster": round(spent["cold"]["median"] / spent["warm"]["median"], 2),
                "load_average": load(),
            }
        )
    return results


def line(result: Case) -> Case:
    """One line of the solvers' table."""
    shown = {
        key: result[key]
        for key in ("structure", "solver", "tolerance", "converged", "oracle_calls", "rounds", "at_the_cap", "gap")
    }
    return {**shown, "ms": result["ms"]["median"] if result["ms"] else "-", "runs": result["timed_runs"]}


def warm_line(result: Case) -> Case:
    """One line of the warm starts' table."""
    shown = {key: result[key] for key in ("structure", "scale", "change")}
    rounds = {f"rounds, {start}": count for start, count in result["rounds"].items()}
    times = {f"ms, {start}": spent["median"] for start, spent in result["ms"].items()}
    ratios = {"times fewer rounds": result["times_fewer_rounds"], "times faster": result["times_faster"]}
    return {**shown, **rounds, **times, **ratios}


def draw(answers: Mapping[str, Mapping[str, Any]]) -> Any:
    """Gap and support size by round, a column a space."""
    figure, axes = pyplot().subplots(
        2, len(answers), figsize=(5 * len(answers), 5.6), squeeze=False, layout="constrained", height_ratios=(2, 1)
    )
    for column, (name, infos) in enumerate(answers.items()):
        structlat.plot.trace(infos, axes=axes[:, column])
        axes[0, column].set_title(name)
    return figure


def main() -> None:
    """Run everything, print tables, write JSON and a picture."""
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, help="of Frank-Wolfe at most (default: 1000, with --quick 50)")
    made.add_argument("--limit", type=float, default=1.0, help="seconds a run beyond which a solver is timed once")
    options = parse(made)
    options.rounds = options.rounds or (50 if options.quick else 1000)
    torch.set_num_threads(1)
    batch = 2 if options.quick else 64
    results, answers = [], {}
    for name in ("matching 10x10",) if options.quick else SPACES:
        done, answers[name] = compare(name, batch, options)
        results += done
        print(table(map(line, done)), flush=True)
    warmed = [
        case
        for scale in ((1.0,) if options.quick else (0.1, 1.0))
        for case in warm("matching 10x10", batch, scale, options)
    ]
    print("\nWarm start:\n" + table(map(warm_line, warmed)))
    save(options, results, threads=1, frank_wolfe_rounds=options.rounds, warm_start=warmed)
    picture(draw(answers), options.picture)


if __name__ == "__main__":
    main()
