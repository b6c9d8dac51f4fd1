"""structlat against the C++ of the paper and of lp-sparsemap, on the same problems, on one thread.

"layer": the peer as its users call it, an example at a time, through its autograd function (bits, budgets) or
a factor graph with one factor (chains). "core": the C++ solver alone: "solve" on factors built before, untimed; "build
+ solve" with the building, which is needed each time, since a factor keeps its active set. Ours: "closed form" and
"active set", both reading the marginals; "active set, equal error" at the first tolerance at which its marginals are no
further from the exact ones than the core's; "face completed", the same with scores that require a gradient.

Exact marginals: of bits a clip, of budgets a bisection, both in NumPy; of chains the one of the two that has the
smaller duality gap, by a Viterbi in NumPy. Every answer is held against them to 1e-6; a peer that is further off is
reported, not timed as a success. Where lpsmap cannot be imported only ours is timed, and nothing is written unless
--out is given, so that figures of the peers stay. README.md beside this file says how the peers are built.

    python benchmarks/peers.py
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import Call, Case, alternate, load, normal, parse, parser, save, spread, table
from numpy.typing import NDArray
from torch import Tensor

import structlat as sl

try:
    from lpsmap import Sequence, TorchFactorGraph
    from lpsmap.ad3ext.sequence import PFactorSequence
    from lpsmap.ad3qp.factor_graph import PFactorGraph
    from lvmhelpers.pbernoulli import PFactorBernoulli
    from lvmhelpers.pbinary_topk import batched_topk
    from lvmhelpers.pbudget import PFactorBudget
    from lvmhelpers.sparsemap import bernoulli_smap, budget_smap

    PEERS = True
except ImportError as missing:
    print(f"The peers cannot be imported ({missing}): ours alone is timed.")
    PEERS = False

Floats = NDArray[np.float64]
AGREE = 1e-6
MAX_ITER = 1000  # of the peer; its default of 10 leaves marginals wrong by up to 0.2
TOLERANCES = (1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 0.0)


class Alternative(NamedTuple):
    """What is timed: ``call`` gives marginals; ``setup`` is not timed."""

    call: Callable[[], Any]
    setup: Call | None = None


# ---- The exact answers. ----------------------------------------------------------------------------------------------


def exact_bits(x: Floats) -> Floats:
    """Marginals of bits, symmetric, gamma = 1."""
    return np.clip((x + 1) / 2, 0, 1)


def exact_budget(x: Floats, budget: int) -> Floats:
    """The same where at most ``budget`` may be on, by bisection."""
    mu = exact_bits(x)
    for row, out in zip(x, mu, strict=True):
        low, high = 0.0, float(row.max()) + 1
        if out.sum() > budget:
            for _ in range(200):
                middle = (low + high) / 2
                low, high = (middle, high) if exact_bits(row - middle).sum() > budget else (low, middle)
            out[:] = exact_bits(row - high)
    return mu


def chain_gap(unary: Floats, pairs: Floats, mu: Floats, used: Floats) -> Floats:
    """Duality gap [B] of marginals mu [B, T, S] and used [B, T-1, S, S]."""
    slope = unary - mu
    best = slope[:, 0]
    for t in range(1, unary.shape[1]):
        best = (best[:, :, None] + pairs[:, t - 1]).max(1) + slope[:, t]
    return np.asarray(best.max(1) - (slope * mu).sum((1, 2)) - (pairs * used).sum((1, 2, 3)))


def error(found: Any, exact: Floats) -> float:
    """Largest distance of a marginal."""
    return float(np.abs(np.asarray(found, dtype=np.float64).reshape(exact.shape) - exact).max())


# ---- The peers. ------------------------------------------------------------------------------------------------------


def declare(factor: Any, variables: int, *settings: Any) -> tuple[Any, Any]:
    """A factor in a graph of its own, which must live as long."""
    factor.initialize(*settings)
    graph = PFactorGraph()
    graph.set_verbosity(0)
    graph.declare_factor(factor, [graph.create_binary_variable() for _ in range(variables)])
    return graph, factor


def with_core(
    make: Callable[[], tuple[Any, Any]], rows: int, solve: Callable[[list[Any]], Floats]
) -> dict[str, Alternative]:
    """The two ways to time a core; a fresh factor for every example."""
    built: list[tuple[Any, Any]] = []

    def build() -> None:
        built[:] = [make() for _ in range(rows)]
        gc.collect()

    def both() -> Floats:
        fresh = [make() for _ in range(rows)]
        return solve([factor for _, factor in fresh])

    return {
        "core, solve": Alternative(lambda: solve([factor for _, factor in built]), build),
        "core, build + solve": Alternative(both, gc.collect),
    }


def peer_bits(x: Floats, budget: int | None) -> dict[str, Alternative]:
    """Of bits, or of budgets."""
    n = x.shape[1]
    rows = torch.from_numpy(x)
    zeros = [0.0] * n

    def one(row: Tensor) -> tuple[Tensor, Tensor]:
        p, z = bernoulli_smap(row, MAX_ITER, False) if budget is None else budget_smap(row, budget, MAX_ITER, False)
        return p, z

    def forward(leaf: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        found = [one(row) for row in leaf]
        return [p for p, _ in found], [z for _, z in found]

    def layer() -> Floats:
        return np.stack([(p.to(z.dtype) @ z).numpy() for p, z in zip(*forward(rows), strict=True)])

    def backward() -> None:
        leaf = rows.clone().requires_grad_()
        ps, zs = forward(leaf)
        (torch.cat(ps) * torch.cat(zs).sum(-1)).sum().backward()

    def make() -> tuple[Any, Any]:
        if budget is None:
            return declare(PFactorBernoulli(), 2 * n, n)
        return declare(PFactorBudget(), 2 * n, n, budget)

    def solve(factors: list[Any]) -> Floats:
        pairs = zip(factors, x.tolist(), strict=True)
        return np.array([f.solve_qp(row + zeros, [], max_iter=MAX_ITER)[0][:n] for f, row in pairs])

    timed = {"layer": Alternative(layer), "layer, forward + backward": Alternative(backward)}
    return timed | with_core(make, len(x), solve)


def peer_chain(unary: Tensor, pairs: Tensor, keep: dict[str, Floats]) -> dict[str, Alternative]:
    """Of chains; ``keep["used"]`` are the core's marginals of the transitions."""
    batch, length, states = unary.shape
    u, v = unary.reshape(batch, -1).tolist(), pairs.reshape(batch, -1).tolist()

    def forward(x: Tensor, y: Tensor) -> Tensor:
        found = []
        for i in range(batch):
            graph = TorchFactorGraph()
            variable = graph.variable_from(x[i])
            graph.add(Sequence(variable, y[i]))
            graph.solve(max_iter=1, max_inner_iter=MAX_ITER, step_size=0.0)
            found.append(variable.value)
        return torch.stack(found)

    def backward() -> None:
        x, y = unary.clone().requires_grad_(), pairs.clone().requires_grad_()
        forward(x, y).sum().backward()

    def solve(factors: list[Any]) -> Floats:
        found = []
        for f, x, y in zip(factors, u, v, strict=True):
            f.set_additional_log_potentials(y)
            found.append(f.solve_qp(x, y, max_iter=MAX_ITER))
        keep["used"] = np.array([used for _, used in found]).reshape(pairs.shape)
        return np.array([mu for mu, _ in found]).reshape(unary.shape)

    timed = {
        "layer": Alternative(lambda: forward(unary, pairs).numpy()),
        "layer, forward + backward": Alternative(backward),
    }

    def make() -> tuple[Any, Any]:
        return declare(PFactorSequence(), length * states, [states] * length)

    return timed | with_core(make, batch, solve)


# ---- Ours. -----------------------------------------------------------------------------------------------------------


def ours(space: sl.Structure, scores: Tensor, extra: list[Tensor], tol: float | None) -> dict[str, Alternative]:
    """Ours; ``tol``: the tolerance of equal error, where it is not the default."""
    leaf = scores.clone().requires_grad_()
    ones = torch.ones_like(scores)

    def mean(solver: str, tol: float = 1e-9, x: Tensor = scores) -> Tensor:
        return sl.sparsemap(space, x, *extra, solver=solver, tol=tol, on_failure="ignore").mean.detach()

    def backward(solver: str) -> None:
        torch.autograd.grad(sl.sparsemap(space, leaf, *extra, solver=solver).mean, leaf, ones)

    timed: dict[str, Alternative] = {}
    if space.closed_form(scores, *extra) is not None:
        timed["closed form"] = Alternative(partial(mean, "auto"))
        timed["closed form, forward + backward"] = Alternative(partial(backward, "auto"))
    timed["active set"] = Alternative(partial(mean, "active_set"))
    if tol is not None:
        timed["active set, equal error"] = Alternative(partial(mean, "active_set", tol))
        timed["face completed"] = Alternative(partial(mean, "active_set", tol, leaf))
    timed["active set, forward + backward"] = Alternative(partial(backward, "active_set"))
    return timed


def equal_error(space: sl.Structure, scores: Tensor, extra: list[Tensor], exact: Floats, theirs: float) -> float:
    """The first tolerance at which our marginals are as good as theirs."""
    for tol in TOLERANCES:
        mean = sl.sparsemap(space, scores, *extra, solver="active_set", tol=tol, on_failure="ignore").mean
        if error(mean, exact) <= max(theirs, 1e-13):
            return tol
    return TOLERANCES[-1]


# ---- Side by side. ---------------------------------------------------------------------------------------------------

BASES = ("layer", "core, solve", "core, build + solve")


def measure(name: str, alternatives: dict[str, Alternative], exact: Floats, case: Case, runs: int) -> list[Case]:
    """Errors, times and ratios of all of them."""
    errors: dict[str, float | None] = {}
    difference = None  # of our marginals and the core's
    if "core, solve" in alternatives:
        (alternatives["core, solve"].setup or gc.collect)()
        difference = error(alternatives["active set"].call(), np.asarray(alternatives["core, solve"].call()))
    for which, alternative in alternatives.items():
        (alternative.setup or gc.collect)()
        found = alternative.call()
        errors[which] = None if found is None else error(found, exact)
        is_peer = which.startswith(("layer", "core"))
        if not is_peer and (errors[which] or 0) > AGREE:
            raise SystemExit(f"{name}, {which}: our marginals are wrong by {errors[which]}")
    setups = {which: alternative.setup for which, alternative in alternatives.items() if alternative.setup}
    calls = {which: alternative.call for which, alternative in alternatives.items()}
    times = {which: spread(spent) for which, spent in alternate(calls, runs, setups=setups).items()}
    busy = load()
    results = []
    for which, spent in times.items():
        faster = {}
        for base in BASES:
            against = base + ", forward + backward" if "backward" in which else base
            if against in times and not which.startswith(("layer", "core")):
                faster[base] = round(times[against]["median"] / spent["median"], 2)
        agrees = None if errors[which] is None else bool(errors[which] <= AGREE)  # type: ignore[operator]
        here = {"problem": name, "alternative": which, "ms": spent, "error": errors[which], "agrees": agrees}
        results.append(
            {**here, "differs_from_core": difference, **case, "times_faster_than": faster, "load_average": busy}
        )
    return results


def bits(n: int, budget: int | None, batch: int, seed: int, runs: int) -> list[Case]:
    """Bits, or at most ``budget`` of them."""
    space = sl.BitVector(n) if budget is None else sl.BudgetBitVector(n, budget)
    x = np.random.default_rng(seed).standard_normal((batch, n))
    exact = exact_bits(x) if budget is None else exact_budget(x, budget)
    peers = peer_bits(x, budget) if PEERS else {}
    scores = torch.from_numpy(x)
    tol = None
    if peers:
        core = peers["core, build + solve"].call()
        tol = equal_error(space, scores, [], exact, error(core, exact))
    case = {"batch": batch, "seed": seed, "threads": 1, "tolerance_of_equal_error": tol}
    name = f"bits {n}" if budget is None else f"budget {n}"
    return measure(name, ours(space, scores, [], tol) | peers, exact, case, runs)


def chain(length: int, states: int, batch: int, seed: int, runs: int) -> list[Case]:
    """Chains."""
    space = sl.LinearChain(length, states)
    rng = np.random.default_rng(seed)
    unary, pairs = (
        rng.standard_normal((batch, length, states)),
        rng.standard_normal((batch, length - 1, states, states)),
    )
    scores, extra = torch.from_numpy(unary), torch.from_numpy(pairs)
    post = sl.sparsemap(space, scores, extra, tol=1e-14, on_failure="ignore")
    exact, used = post.mean.numpy(), post.extra_marginals[0].numpy()
    gaps = {"structlat": float(chain_gap(unary, pairs, exact, used).max())}
    keep: dict[str, Floats] = {}
    peers = peer_chain(scores, extra, keep) if PEERS else {}
    tol = None
    if peers:
        core = peers["core, build + solve"].call()
        gaps["core"] = float(chain_gap(unary, pairs, core, keep["used"]).max())
        if gaps["core"] < gaps["structlat"]:
            exact = core
        tol = equal_error(space, scores, [extra], exact, error(core, exact))
    case = {"batch": batch, "seed": seed, "threads": 1, "tolerance_of_equal_error": tol, "gaps": gaps}
    return measure(f"chain {length}x{states}", ours(space, scores, [extra], tol) | peers, exact, case, runs)


def top(n: int, k: int, batch: int, runs: int) -> list[Case]:
    """The k best bit-vectors, in float32, held against each other by their scores."""
    space = sl.BitVector(n)
    x = normal(space, batch)[0].float()
    best = (space.topk(x, k=k)[0].double() * x.double()[:, None]).sum(-1).numpy()

    def scored(z: Tensor) -> Floats:
        return np.asarray((z.double() * x.double()[:, None]).sum(-1).numpy())

    def theirs() -> Tensor:
        z = torch.empty(batch, k, n, dtype=torch.float32)
        batched_topk(x.numpy(), z.numpy(), k)
        return z

    calls: dict[str, Call] = {"ours": lambda: space.topk(x, k=k)[0]}
    errors = {"ours": 0.0}
    if PEERS:
        calls["core"] = theirs
        errors["core"] = float(np.abs(np.sort(scored(theirs())) - np.sort(best)).max())
    times = {which: spread(spent) for which, spent in alternate(calls, runs).items()}
    faster = {"core": round(times["core"]["median"] / times["ours"]["median"], 2)} if PEERS else {}
    return [
        {
            "problem": f"top-{k} of bits {n}",
            "alternative": which,
            "ms": spent,
            "error": errors[which],
            "agrees": errors[which] <= 1e-4,  # the peer sums scores in float32
            "batch": batch,
            "threads": 1,
            "times_faster_than": faster if which == "ours" else {},
            "load_average": load(),
        }
        for which, spent in times.items()
    ]


def line(result: Case) -> Case:
    """One line of the table."""
    shown = {key: result[key] for key in ("problem", "alternative", "error")}
    quartiles = "{quartile_1:.3g} to {quartile_3:.3g}".format(**result["ms"])
    faster = ", ".join(f"{ratio:.3g} ({base})" for base, ratio in result["times_faster_than"].items())
    return {**shown, "ms": result["ms"]["median"], "quartiles": quartiles, "times faster than": faster}


def run(options: argparse.Namespace) -> list[Case]:
    """Everything; the budget of 128 with a seed for which the peer converges."""
    batch, chains, runs = (4, 2, options.runs) if options.quick else (64, 32, options.runs)
    parts: list[Callable[[], list[Case]]] = [
        partial(bits, 32, None, batch, 2, runs),
        partial(bits, 128, None, batch, 2, runs),
        partial(bits, 32, 16, batch, 2, runs),
        partial(bits, 128, 64, batch, 2, runs),
        partial(chain, 20, 5, chains, 2, runs),
        partial(chain, 40, 10, chains, 2, runs),
        partial(top, 32, 10, batch, runs),
        partial(top, 128, 10, batch, runs),
    ]
    results: list[Case] = []
    for part in parts:
        results += part()
        print(results[-1]["problem"], flush=True)
    return results


def main() -> None:
    """Run everything, print a table, write JSON."""
    options = parse(parser(__doc__))
    torch.set_num_threads(1)
    results = run(options)
    print(table(map(line, results)))
    if not PEERS and not options.out_given:
        print(f"The peers are not there: {options.out.name} stays as it is.")
        return
    save(options, results, ("lp-sparsemap", "lvmhelpers"), peers=PEERS, peer_max_iter=MAX_ITER, agree=AGREE)


if __name__ == "__main__":
    main()
