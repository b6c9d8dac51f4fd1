"""The paper's tables, again: the grid of methods and seeds of a table, whatever of it is missing.

    python examples/reproduce.py --table 2 --seeds 5 --out docs/results/signal_game.jsonl
    python examples/reproduce.py --table 3 --preset paper --methods topk sparsemap --jobs 2 --options.epochs 20

A cell is one run of a script of this folder. A finished one is a JSON line in ``--out``, so that a second call runs
what is missing, and what was interrupted goes on from its last epoch. From the lines it makes a Markdown table beside
the paper's numbers (between two marks in ``<out>.md``, around which people may write; one table for each choice of
options) and, in ``<out>.png``, the validation metric by epoch and by second.

Cells run in parallel through joblib, each with one thread: in processes of this machine (``--backend loky``), on a Dask
cluster (``--address`` of its scheduler) or on Ray (``pip install 'structlat[cluster]'``). The machines of a cluster
share a file system, and have this folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import json
import math
import sys
import traceback
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import joblib
import pandas as pd
from files import write_whole
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from options import NO_CONFIG, Settings, parse, resolve
from results import read_lines
from tqdm import tqdm

END = "<!-- end of table -->"


class Table(NamedTuple):
    """A table of the paper."""

    script: str
    metric: str  # of the test
    monitor: str  # of the validation, for the curves
    heading: str
    scale: float  # from the metric to what the table shows
    digits: int
    calls: str  # what the calls are of
    more: Mapping[str, str]  # further metrics to show, with their headings
    paper: Mapping[
        str, tuple[str, ...]
    ]  # metric (one for each number of bits) and calls; methods not in it: ours alone
    methods: Sequence[str]
    bits: Sequence[int | None] = (None,)


SAMPLED = ("sfe", "sfe+", "nvil", "gumbel", "st-gumbel")
TABLES = {
    1: Table(
        script="semi_supervised_vae",
        metric="accuracy",
        monitor="accuracy",
        heading="accuracy, %",
        scale=100,
        digits=2,
        calls="decoder calls",
        more={},
        paper={
            "sfe": ("94.75 ± .002", "1"),
            "sfe+": ("96.53 ± .001", "2"),
            "nvil": ("96.01 ± .002", "1"),
            "gumbel": ("95.46 ± .001", "1"),
            "softmax": ("96.93 ± .001", "10"),
            "sparsemax": ("96.87 ± .001", "1.01 ± 0.01"),
        },
        methods=(*SAMPLED, "sum-and-sample", "softmax", "sparsemax"),
    ),
    2: Table(
        script="signal_game",
        metric="success",
        monitor="success",
        heading="success, %",
        scale=100,
        digits=1,
        calls="receiver calls",
        more={"success_same_class": "same class, %", "success_other_classes": "other classes, %"},
        paper={
            "sfe": ("33.05 ± 2.84", "1"),
            "sfe+": ("44.32 ± 2.72", "2"),
            "nvil": ("37.04 ± 1.61", "1"),
            "gumbel": ("23.51 ± 16.19", "1"),
            "st-gumbel": ("27.42 ± 13.36", "1"),
            "softmax": ("93.37 ± 0.42", "256"),
            "sparsemax": ("93.35 ± 0.50", "3.13 ± 0.48"),
        },
        methods=(*SAMPLED, "sum-and-sample", "softmax", "sparsemax"),
    ),
    3: Table(
        script="bit_vector_vae",
        metric="negative_log_likelihood",
        monitor="negative_elbo",
        heading="bits a pixel",
        scale=1,
        digits=3,
        calls="generator calls",
        more={"negative_elbo": "negative ELBO, bits a pixel"},
        paper={
            "sfe": ("3.74", "3.77"),
            "sfe+": ("3.61", "3.59"),
            "nvil": ("3.65", "3.60"),
            "gumbel": ("3.57", "3.49"),
            "topk": ("3.62", "3.61"),
            "sparsemap": ("3.72", "3.67"),
            "sparsemap-budget": ("3.64", "3.66"),
        },
        methods=(*SAMPLED, "topk", "sparsemap", "sparsemap-budget"),
        bits=(32, 128),
    ),
}


@dataclasses.dataclass(kw_only=True)
class Grid:
    """Which cells, and how they are run.

    Parameters
    ----------
    table
        of the paper: 1 semi-supervised VAE, 2 signal game, 3 bit-vector VAE
    preset
        of the script
    seeds
        how many, from 0
    methods
        by default all of the table
    bits
        of table 3; by default 32 and 128
    options
        of the script, for all cells, such as --options.epochs 20
    out
        file of the finished cells, one JSON line each; by default in the folder out
    scratch
        folder for logs and checkpoints
    jobs
        cells at a time
    backend
        of joblib
    address
        of a Dask scheduler; by default a cluster of this machine's cores
    """

    table: Literal[1, 2, 3]
    preset: Literal["quick", "paper"] = "quick"
    seeds: int = 1
    methods: list[str] | None = None
    bits: list[int] | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    out: str | None = None
    scratch: str = "out"
    jobs: int = 1
    backend: Literal["loky", "dask", "ray"] = "loky"
    address: str | None = None


SEVERAL = {
    "methods": (str, "by default all of the table"),
    "bits": (int, "numbers of bits, of table 3; by default 32 and 128"),
}


# ---- Cells. ----------------------------------------------------------------------------------------------------------


Cell = dict[str, Any]  # options of the script


def cells_of(grid: Grid) -> list[Cell]:
    """The grid's cells, a seed of all methods before the next seed."""
    table = TABLES[grid.table]
    axes = itertools.product(range(grid.seeds), grid.bits or table.bits, grid.methods or table.methods)
    return [
        {"estimator": method, "preset": grid.preset, "seed": seed, **({} if bits is None else {"bits": bits})}
        | grid.options
        for seed, bits, method in axes
    ]


def settings_class(script: str) -> type[Settings]:
    """What the script's ``main`` takes."""
    return typing.get_type_hints(importlib.import_module(script).main)["settings"]  # type: ignore[no-any-return]


def line_of(cell: Cell, script: str, lines: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The last line that is of this cell: of its options, and apart from them of the script's and the preset's own."""
    settings = settings_class(script)
    wanted = resolve(settings(**cell)).config()
    before = settings().config()  # of lines that are older than an option
    own = (x for x in reversed(lines) if x["experiment"] == script and before | x["config"] == wanted)
    return next(own, None)


def lines_of(grid: Grid, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The finished cells of this preset and these options, of all methods, bits and seeds, in the table's order."""
    table = TABLES[grid.table]
    own = [line for line in lines if line["experiment"] == table.script and line["preset"] == grid.preset]
    bits = sorted({line["bits"] for line in own if "bits" in line}) or [None]
    methods = list(dict.fromkeys([*table.methods, *(line["method"] for line in own)]))
    everything = dataclasses.replace(
        grid, methods=methods, bits=bits, seeds=1 + max((line["seed"] for line in own), default=0)
    )
    done = [line_of(cell, table.script, own) for cell in cells_of(everything)]
    return [line for line in done if line is not None]


def run_cell(script: str, cell: Cell, places: Mapping[str, Any]) -> str | None:
    """Run a cell in this process, which writes its line. Returns what went wrong, if anything did."""
    try:
        settings = settings_class(script)(**cell, **places)
        importlib.import_module(script).main(settings)
    except Exception:
        error = f"{cell}\n{traceback.format_exc()}"
        print(f"\nFailed: {error}", file=sys.stderr, flush=True)  # now: others may take hours
        return error
    return None


def wanted(module: str, backend: str) -> Any:
    """A module of one of the libraries that are for clusters."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"--backend {backend}: not installed; pip install 'structlat[cluster]'") from error


@contextlib.contextmanager
def cluster(grid: Grid) -> Iterator[None]:
    """Have joblib use the backend."""
    if grid.backend == "dask":
        client = wanted("dask.distributed", grid.backend).Client
        local = {} if grid.address else {"n_workers": grid.jobs, "threads_per_worker": 1}
        with client(grid.address, **local), joblib.parallel_config("dask"):
            yield
        return
    if grid.backend == "ray":
        wanted("ray.util.joblib", grid.backend).register_ray()
    with joblib.parallel_config(grid.backend, n_jobs=grid.jobs):
        yield


def run_cells(grid: Grid, out: Path) -> list[str]:
    """Run what is missing. Returns what went wrong, one text a cell."""
    script = TABLES[grid.table].script
    lines = read_lines(out)
    cells = cells_of(grid)
    missing = [cell for cell in cells if line_of(cell, script, lines) is None]
    print(f"{script}: {len(cells)} cells, {len(cells) - len(missing)} of them done before")
    if not missing:
        return []
    places = {"out": str(Path(grid.scratch).resolve()), "results": str(out.resolve()), "resume": True}
    places["progress"] = grid.jobs == 1
    work = (joblib.delayed(run_cell)(script, cell, places) for cell in missing)
    if grid.jobs == 1 and grid.backend == "loky":
        return [error for error in (function(*args, **kwargs) for function, args, kwargs in work) if error]
    with cluster(grid):
        # Ray's backend hands nothing back before the end
        kind: Any = "list" if grid.backend == "ray" else "generator_unordered"
        done = joblib.Parallel(return_as=kind)(work)
        return [error for error in tqdm(done, total=len(missing), desc=script, unit="cell") if error]


# ---- What comes of them. ---------------------------------------------------------------------------------------------


def write_report(grid: Grid, out: Path) -> str:
    """Write table and curves of all finished cells of the grid's preset and options. Returns the table."""
    table = TABLES[grid.table]
    done = lines_of(grid, read_lines(out))
    if not done:
        return "Nothing is done yet."
    if len({json.dumps(line["data"].get("md5"), sort_keys=True) for line in done}) > 1:
        raise ValueError(f"out: the cells in {out} are of different files of data; expected a file for each")
    text = markdown(table, done)
    page = out.with_suffix(".md")
    words = words_of(grid)
    begin = f"<!-- written by examples/reproduce.py: --table {' '.join([str(grid.table), *words])} -->"
    old = page.read_text() if page.exists() else ""
    if begin in old and END not in old.partition(begin)[2]:
        raise ValueError(f"{page}: a table begins there and does not end; expected {END!r} after it")
    if begin not in old:
        old += f"{begin}\n{END}\n"
    before, _, rest = old.partition(begin)
    after = rest.partition(END)[2]
    write_whole(page, lambda beside: beside.write_text(f"{before}{begin}\n{text}\n{END}{after}"))
    picture = out.with_name(
        "_".join([out.stem, *(word.removeprefix("--").removeprefix("options.").replace(" ", "_") for word in words)])
        + ".png"
    )
    figure = curves(table, done)
    write_whole(picture, lambda beside: figure.savefig(beside, dpi=100))
    return f"{text}\n\nWritten: {page}, {picture}"


def words_of(grid: Grid) -> list[str]:
    """The options that tell a table from others of the same page."""
    options = {name: x for name, x in grid.options.items() if name not in NO_CONFIG}
    preset = [] if grid.preset == "quick" else [f"--preset {grid.preset}"]
    return preset + [f"--options.{name} {value}" for name, value in options.items()]


def frame_of(table: Table, lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row a cell: method, bits, and the numbers that the table shows, named by their headings."""
    headings = {table.metric: table.heading, **table.more}
    return pd.DataFrame(
        {"method": line["method"], "bits": line.get("bits", 0)}
        | {heading: table.scale * line["metrics"].get(name, math.nan) for name, heading in headings.items()}
        | {table.calls: line["calls"], f"{table.calls}, last epoch": line.get("calls_last_epoch", line["calls"])}
        | {"seconds": line["seconds"]}
        for line in lines
    )


def markdown(table: Table, lines: Sequence[dict[str, Any]]) -> str:
    """Mean and, of several seeds, sample standard deviation of each method, beside the paper's numbers."""
    frame = frame_of(table, lines)
    digits = dict.fromkeys([table.heading, *table.more.values()], table.digits)
    digits |= {table.calls: 2, f"{table.calls}, last epoch": 2, "seconds": 0}
    rows = []
    for (bits, method), group in frame.groupby(["bits", "method"], sort=False):
        row: dict[str, str] = {"method": str(method)} | ({"bits": str(bits)} if bits else {})
        row["seeds"] = str(len(group))
        paper = table.paper.get(str(method), ("", ""))
        for name, places in digits.items():
            row[name] = f"{group[name].mean():.{places}f}"
            if len(group) > 1:
                row[name] += f" ± {group[name].std():.{places}f}"
        column = list(table.bits).index(bits or None) if (bits or None) in table.bits else None
        row[f"paper: {table.heading}"] = "" if column is None else paper[column]
        if not bits:
            row[f"paper: {table.calls}"] = paper[1]
        rows.append(row)
    text = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return str(text)


def curves(table: Table, lines: Sequence[dict[str, Any]]) -> Figure:
    """The validation metric by epoch and by second: thin, each run; thick, the mean over a method's runs."""
    every = sorted({line.get("bits", 0) for line in lines})
    figure = Figure(figsize=(12, 4.4 * len(every)), layout="constrained")
    axes = figure.subplots(len(every), 2, squeeze=False)
    methods = list(dict.fromkeys(line["method"] for line in lines))
    name = f"validation/{table.monitor}"
    for bits, (by_epoch, by_second) in zip(every, axes, strict=True):
        for number, method in enumerate(methods):
            own = [line["history"] for line in lines if (line["method"], line.get("bits", 0)) == (method, bits)]
            style = {"color": f"C{number}"}
            for x, ax in (("epoch", by_epoch), ("seconds", by_second)):
                for history in own:
                    ax.plot(history[x], history[name], alpha=0.25, linewidth=0.8, **style)
                if own:
                    mean = pd.concat([pd.DataFrame({"x": h[x], "y": h[name]}) for h in own]).groupby(level=0).mean()
                    ax.plot(mean["x"], mean["y"], linewidth=2, label=method, **style)
        for x, ax in (("epoch", by_epoch), ("seconds of training", by_second)):
            ax.set(xlabel=x, ylabel=f"{table.monitor}, validation", title=f"{bits} bits" if bits else "")
            ax.grid(alpha=0.3)
        by_second.set_xscale("log")
        by_second.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        by_second.xaxis.set_major_formatter("{x:g}")
        by_second.xaxis.set_minor_formatter(NullFormatter())
        by_epoch.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


# ---- The command line. -----------------------------------------------------------------------------------------------


def main(grid: Grid) -> int:
    """Run what is missing, and write table and curves. Returns the exit status."""
    out = Path(grid.out or f"out/{TABLES[grid.table].script}.jsonl")
    errors = run_cells(grid, out)
    print(write_report(grid, out))
    for error in errors:  # once more, after whatever else was said
        print(f"\nFailed: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    try:
        sys.exit(main(parse(Grid, "Run the cells of one of the paper's tables that are missing.", several=SEVERAL)))
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C. The same command goes on from here.", file=sys.stderr)
        sys.exit(130)
