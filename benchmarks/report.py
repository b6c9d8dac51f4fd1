"""Write the tables of docs/performance.md from the result files, between the marks that bear their names.

`python benchmarks/report.py` after a run of the others; a test holds that the page says what the files say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"


def load(name: str) -> dict[str, Any]:
    """The result file of a benchmark."""
    found: dict[str, Any] = json.loads((ROOT / f"docs/results/benchmark_{name}.json").read_text())
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(x) for x in line) + " |" for line in lines)


def number(x: float) -> str:
    """Three digits, or a whole number."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def pick(results: list[dict[str, Any]], **wanted: object) -> dict[str, Any]:
    """The one result with these values."""
    (found,) = [r for r in results if all(r[k] == v for k, v in wanted.items())]
    return found


def peers() -> str:
    """Ours beside the C++ peer, one thread."""
    results = load("peers")["results"]
    rows = []
    for r in results:
        faster = r.get("times_faster_than") or {}
        error = "" if r.get("error") is None else f"{r['error']:.0e}"
        ratios = [number(faster[x]) if x in faster else "" for x in ("layer", "core, solve", "core, build + solve")]
        rows.append([r["problem"], r["alternative"], error, number(r["ms"]["median"]), *ratios])
    head = ["problem", "alternative", "error", "ms", "x layer", "x core", "x core, building its factors"]
    return table(head, rows)


def targets() -> str:
    """What was to be reached, and what was."""
    p, t = load("peers")["results"], load("threads")["results"]
    growth, solvers, topk, simplex = (
        load("growth"),
        load("solvers"),
        load("topk")["results"],
        load("simplex")["results"],
    )

    def against(problem: str, alternative: str, other: str) -> float:
        return float(pick(p, problem=problem, alternative=alternative)["times_faster_than"][other])

    rows: list[tuple[str, str, str, bool]] = []

    def add(work: str, wanted: str, got: Sequence[float], least: float) -> None:
        rows.append((work, wanted, ", ".join(number(x) for x in got), min(got) >= least))

    four = ("bits 32", "bits 128", "budget 32", "budget 128")
    add(
        "closed form against the layer: " + ", ".join(four),
        "50",
        [against(x, "closed form", "layer") for x in four],
        50,
    )
    add("closed form against the core, the same", "20", [against(x, "closed form", "core, solve") for x in four], 20)
    equal = "active set, equal error"
    add("active set against the core, bits 128, equal error", "4", [against("bits 128", equal, "core, solve")], 4)
    add("the same with the face completed", "1.5", [against("bits 128", "face completed", "core, solve")], 1.5)
    chains = ("chain 20x5", "chain 40x10")
    add("chains 20x5, 40x10 against the core", "3", [against(x, equal, "core, solve") for x in chains], 3)
    warm = [w["times_fewer_rounds"] for w in solvers["warm_start"] if w["change"] == 0.01]
    scales = ", ".join(f"{w['scale']:g}" for w in solvers["warm_start"] if w["change"] == 0.01)
    add(f"warm start, change of 1e-2, matching 10x10, scores of scale {scales}: times fewer rounds", "5", warm, 5)
    best = pick(topk, structure="bits 128", k=10, what="topk", threads=1)["ms"]["median"]
    rows.append(("top-10 bit-vectors, D = 128, batch 64, ms", "0.7", number(best), best <= 0.7))
    ours = [r for r in simplex if r["map"] == "sparsemax"]
    add(
        "sparsemax against entmax, the least of all sizes, dtypes, modes, threads",
        "1",
        [min(r["times_faster"]["entmax"] for r in ours)],
        1,
    )
    large = [r["times_faster"]["entmax"] for r in ours if r["shape"] == [64, 100000]]
    add("the same at [64, 100000]", "2", [min(large)], 2)
    two = [r for r in t if r["threads"] == 2 and r["mode"] == "forward" and "top" not in r["case"]]
    names = ", ".join(r["case"] for r in two)
    add(f"two threads against one, batch 1,024, forward: {names}", "1.7", [r["times_faster"] for r in two], 1.7)
    viterbi = pick(load("spaces")["results"], structure="chain 32x16", what="top-4")["times_faster"]["torch-struct"]
    add("4 best of chains 32x16, batch 8, against torch-struct", "50", [viterbi], 50)
    batch = [r["exponent_time"] for r in growth["results"] if r["axis"] == "batch"]
    rows.append(("growth in the batch: exponents", "at most 1.05", ", ".join(map(number, batch)), max(batch) <= 1.05))
    mib = growth["peak_memory"]["mib"]
    rows.append(
        (
            "peak memory of bits, batch 1,024, D = 1,000, marginals and gradient, MiB",
            "under 256",
            number(mib),
            mib < 256,
        )
    )
    return table(
        ["work", "to reach", "measured", ""], [(*r[:3], "reached" if r[3] else "**not reached**") for r in rows]
    )


def structures() -> str:
    """Milliseconds by space and by what is read, batch of 64, normal scores, one thread."""
    found = [r for r in load("structures")["results"] if (r["batch"], r["scale"], r["threads"]) == (64, 1.0, 1)]
    rows = []
    for structure, read in dict.fromkeys((r["structure"], r["read"]) for r in found):
        modes = ("forward", "forward + backward")
        ms = {r["mode"]: r["ms"]["median"] for r in found if (r["structure"], r["read"]) == (structure, read)}
        rows.append([structure, read, *(number(ms[m]) if m in ms else "left out" for m in modes)])
    return table(["space", "read", "forward, ms", "forward + backward, ms"], rows)


def spaces() -> str:
    """Milliseconds of each space's oracles, one thread, and how many times longer others take."""
    asked = ("MAP", "top-4", "top-10", "log-partition", "with gradient", "10 samples", "sparsemap")
    rows = []
    results = load("spaces")["results"]
    for structure, batch in dict.fromkeys((r["structure"], r["batch"]) for r in results):
        found = {r["what"]: r for r in results if r["structure"] == structure}
        rows.append(
            [structure, batch, *(number(found[w]["ms"]["structlat"]["median"]) if w in found else "" for w in asked)]
        )
    return table(["space", "batch", *asked], rows)


def independent() -> str:
    """Ours beside independent implementations of the same."""
    rows = []
    for r in load("spaces")["results"]:
        for whose, faster in r["times_faster"].items():
            ours, theirs = (number(r["ms"][x]["median"]) for x in ("structlat", whose))
            rows.append([r["structure"], r["batch"], r["what"], whose, ours, theirs, number(faster)])
    return table(["space", "batch", "what", "beside", "ms", "its ms", "times faster"], rows)


def reach() -> str:
    """How time grows with the length, and with k."""
    rows = [
        [
            c["curve"],
            c["what"],
            c["axis"],
            f"{c['values'][0]} to {c['values'][-1]}",
            number(c["ms"][-1]["median"]),
            f"{c['exponent']:.2f}",
        ]
        for c in load("spaces")["growth"]
    ]
    return table(["problem, batch 16", "what", "over", "from, to", "ms at the end", "exponent"], rows)


def threads() -> str:
    """Two threads against one."""
    rows = []
    results = load("threads")["results"]
    for r in results:
        if r["threads"] != 1:
            one = pick(results, case=r["case"], mode=r["mode"], threads=1)["ms"]["median"]
            rows.append([r["case"], r["mode"], number(one), number(r["ms"]["median"]), number(r["times_faster"])])
    return table(["batch of 1,024", "", "one thread, ms", "two, ms", "times faster"], rows)


def growth() -> str:
    """Fitted exponents."""
    rows = [
        [r["curve"], r["axis"], r["what"], f"{r['exponent_time']:.2f}", f"{r['exponent_memory']:.2f}"]
        for r in load("growth")["results"]
    ]
    return table(["problem", "over", "what", "time", "memory"], rows)


def solvers() -> str:
    """Milliseconds and oracle calls to three tolerances."""
    results = load("solvers")["results"]
    rows = []
    tolerances = sorted({r["tolerance"] for r in results}, reverse=True)
    for structure, solver in dict.fromkeys((r["structure"], r["solver"]) for r in results):
        cells = []
        for tolerance in tolerances:
            r = pick(results, structure=structure, solver=solver, tolerance=tolerance)
            short = "" if r["converged"] == 1 else f" ({r['converged']:.0%} of rows)"
            ms = "not timed" if r["ms"] is None else number(r["ms"]["median"])
            cells.append(f"{ms} / {number(r['oracle_calls'])}{short}")
        rows.append([structure, solver, *cells])
    return table(["problem", "solver", *(f"to {t:g}" for t in tolerances)], rows)


def warm() -> str:
    """Rounds from a cold and from a warm start."""
    rows = [
        [
            f"{w['scale']:g}",
            f"{w['change']:g}",
            number(w["rounds"]["cold"]),
            number(w["rounds"]["warm"]),
            number(w["times_faster"]),
        ]
        for w in load("solvers")["warm_start"]
    ]
    return table(["scale of the scores", "change", "rounds, cold", "rounds, warm", "times faster"], rows)


def simplex() -> str:
    """Ours against entmax, one thread, float32."""
    rows = []
    for r in load("simplex")["results"]:
        if r["threads"] == 1 and r["dtype"] == "float32" and r["scale"] == 1.0:
            ms = r["times"]
            size = f"[{r['shape'][0]}, {r['shape'][1]}]"
            cells = [number(ms[x]["median"]) for x in ("structlat", "entmax", "entmax, k=100")]
            rows.append([r["map"], size, r["mode"], *cells, number(r["times_faster"]["entmax"])])
    return table(["", "size", "", "ms", "entmax, ms", "entmax, k=100, ms", "x entmax"], rows)


SECTIONS = {
    f.__name__: f
    for f in (targets, peers, structures, spaces, independent, reach, threads, growth, solvers, warm, simplex)
}


def written(text: str) -> str:
    """``text`` with every table as the files have it now."""
    for name, section in SECTIONS.items():
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        body = section()
        text, count = re.subn(pattern, lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"{PAGE.name}: expected one place for the table {name!r}, found {count}")
    return text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
