"""topk_sparsemax over k, and the oracle under it alone.

Batch 64, scores of scale 1, float32 (as in the figures of the paper's C++ code, which peers.py times). "topk_sparsemax,
p" reads the probabilities and the structures, "with gradient" also takes the gradient of the probabilities; "topk" is
``structure.topk`` alone, for k structures (``topk_sparsemax`` asks for k + 1: the last one is its certificate).

    python benchmarks/topk.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    picture,
    pyplot,
    save,
    seconds,
    spread,
    table,
)

import structlat as sl

SPACES: dict[str, sl.Structure] = {
    "bits 32": sl.BitVector(32),
    "bits 128": sl.BitVector(128),
    "chain 20x5": sl.LinearChain(20, 5),
    "matching 10x10": sl.BipartiteMatching(10, 10),
}
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
QUICK = (1, 10)


def calls(space: sl.Structure, batch: int, k: int) -> Mapping[str, Call]:
    """What is timed."""
    scores, extra = normal(space, batch)
    scores, extra = scores.float(), [x.float() for x in extra]
    leaf = scores.clone().requires_grad_()

    def both() -> object:
        post = sl.topk_sparsemax(space, leaf, *extra, k=k)
        assert post.structures.numel()
        return torch.autograd.grad(post.probs.square().sum(), leaf)

    def probs() -> object:
        post = sl.topk_sparsemax(space, scores, *extra, k=k)
        return post.probs, post.structures

    return {"topk": lambda: space.topk(scores, *extra, k=k), "topk_sparsemax": probs, "with gradient": both}


def measure(name: str, batch: int, k: int, runs: int) -> list[Case]:
    """Times of one space at one k."""
    made = calls(SPACES[name], batch, k)
    counts = {(what, count): count for what in made for count in all_threads()}
    spent = alternate({key: made[key[0]] for key in counts}, runs, counts=counts)
    scores, extra = normal(SPACES[name], batch)
    post = sl.topk_sparsemax(SPACES[name], scores.float(), *[x.float() for x in extra], k=k)
    case = {
        "structure": name,
        "batch": batch,
        "k": k,
        "exact": round(float(post.info.exact.double().mean()), 4),
        "mean_support": round(float(post.support_size.double().mean()), 2),
    }
    busy = load()
    return [
        {**case, "what": what, "threads": count, "ms": spread(times), "load_average": busy}
        for (what, count), times in spent.items()
    ]


def lines(results: list[Case]) -> list[Case]:
    """A line a space, k and number of threads."""
    rows: dict[tuple[str, int, int], Case] = {}
    for result in results:
        key = result["structure"], result["k"], result["threads"]
        shown = {name: result[name] for name in ("structure", "k", "threads", "exact", "mean_support")}
        rows.setdefault(key, shown)[f"{result['what']}, ms"] = result["ms"]["median"]
    return list(rows.values())


def draw(results: list[Case]) -> Any:
    """Time over k on one thread, a column for what is timed."""
    names, whats = (list(dict.fromkeys(result[key] for result in results)) for key in ("structure", "what"))
    figure, axes = pyplot().subplots(1, len(whats), figsize=(4 * len(whats), 3.6), layout="constrained", sharey=True)
    for ax, what in zip(axes, whats, strict=True):
        for name in names:
            kept = [r for r in results if (r["structure"], r["what"], r["threads"]) == (name, what, 1)]
            ax.loglog([r["k"] for r in kept], [r["ms"]["median"] for r in kept], "o-", markersize=3, label=name)
        ax.set_title(what, fontsize=10)
        ax.set_xlabel("k")
        ax.grid(visible=True, alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("ms, one thread")
    axes[0].legend(frameon=False)
    return figure


def main() -> None:
    """Run everything, print a table, write JSON and a picture."""
    made = parser(__doc__)
    made.add_argument("--limit", type=float, default=1.0, help="seconds a run beyond which no larger k is timed")
    options = parse(made)
    torch.set_num_threads(1)
    batch = 4 if options.quick else 64
    results: list[Case] = []
    left_out: list[Case] = []
    for name in SPACES:
        for k in QUICK if options.quick else COUNTS:
            oracle = calls(SPACES[name], batch, k)["topk"]
            oracle()
            took = seconds(oracle)
            if took > options.limit:
                left_out.append({"structure": name, "k": f"{k} and more", "why": f"{took:.3g} s a run"})
                break
            results += measure(name, batch, k, options.runs)
            print(*lines(results)[-1].values(), sep="  ", flush=True)
    print(table(lines(results)))
    if left_out:
        print("\nLeft out:\n" + table(left_out))
    save(options, results, limit_seconds=options.limit, left_out=left_out)
    picture(draw(results), options.picture)


if __name__ == "__main__":
    main()
