"""A dynamic program of your own: how a strand of RNA folds onto itself (Nussinov et al. 1978).

    python examples/custom_dynamic_program.py

The space is the class ``Folding`` below: its recursion, written down as hyperedges, in a dozen lines. MAP, the k best,
exact counts, membership, log-partition, marginals, exact samples, and SparseMAP follow. What this script claims, it
asserts. Scores are made up from which bases pair; a real model would learn them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from files import write_whole
from jsonargparse import ArgumentParser
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc
from torch import Tensor

import structlat as sl
import structlat.testing

LOOP = 3  # at least so many bases lie between two that pair: a strand cannot bend more sharply
BONDS = {frozenset("GC"): 3.0, frozenset("AU"): 2.0, frozenset("GU"): 1.0}  # hydrogen bonds, and a weak one


class Folding(sl.DynamicProgram):
    """Nested base pairs: scores [*, n, n] for base i paired with base j > i; z [n, n], 1. where two pair."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.shape = torch.Size([n, n])

    def hyperedges(self) -> Iterator[tuple[Any, ...]]:
        """A node for each stretch i..j: its last base is alone, or pairs with k and cuts the stretch in two."""
        for i in range(self.n + 1):
            yield (i, i - 1), [], []  # the empty stretch before i
        for width in range(self.n):
            for i in range(self.n - width):
                j = i + width
                yield (i, j), [(i, j - 1)], []
                for k in range(i, j - LOOP):
                    yield (i, j), [(i, k - 1), (k + 1, j - 1)], [(k, j)]


def bond_scores(strand: str, scale: float) -> Tensor:
    """Scores [n, n], float64: bonds of the two bases, less what an average pair has; -inf where they do not bind."""
    rows = [[BONDS.get(frozenset(a + b), -torch.inf) for b in strand] for a in strand]
    return scale * (torch.tensor(rows, dtype=torch.float64) - 1.5)


def brackets(z: Tensor) -> str:
    """A folding as brackets and dots."""
    text = ["."] * len(z)
    for i, j in torch.nonzero(z).tolist():
        text[i], text[j] = "(", ")"
    return "".join(text)


def report(space: Folding, strand: str, scores: Tensor) -> sl.SparseDistribution:
    """Ask everything there is to ask. Returns the SparseMAP distribution."""
    structlat.testing.check_structure(Folding(7), rows=3, k=4)
    print("structlat.testing.check_structure on 7 bases: passed")
    print(f"foldings of {space.n} bases: {space.cardinality():,}")
    ranked, valid = space.topk(scores.unsqueeze(0), k=5)
    best = ranked[valid]
    values = space.score(best, scores)
    assert torch.equal(best[0], sl.argmax(space, scores))
    assert bool((values[1:] <= values[:-1] + 1e-9).all())
    print(f"\n{strand}\n" + "\n".join(f"{brackets(z)}  {x:.1f}" for z, x in zip(best, values, strict=True)))

    gibbs = sl.Gibbs(space, scores)
    drawn = gibbs.sample((1000,), generator=torch.Generator().manual_seed(0))
    assert bool(space.contains(drawn).all())
    assert (drawn.mean(0) - gibbs.marginals).abs().max() < 0.1
    print(f"\nsoftmax: entropy {gibbs.entropy():.2f} nats; 1,000 samples agree with the marginals")

    post = sl.sparsemap(space, scores)
    assert bool(space.contains(post.structures).all())
    print(f"sparsemap: foldings with probability: {int(post.support_size)}; duality gap {post.info.gap:.0e}")
    for z, p in zip(post.structures, post.probs, strict=True):
        print(f"{brackets(z)}  {p:.3f}")
    pairs = post.expect(lambda z, _: z.sum((-1, -2)))
    assert torch.isclose(pairs, post.marginals.sum())
    print(f"expected number of pairs: {pairs:.2f}")
    return post


def draw_arcs(ax: Axes, strand: str, pairs: Tensor, title: str) -> None:
    """The strand on a line, and an arc for each pair, as dark as its entry of ``pairs`` [n, n] is large."""
    n = len(strand)
    for i, j in torch.nonzero(pairs > 1e-6).tolist():
        arc = Arc(((i + j) / 2, 0), j - i, j - i, theta1=0, theta2=180, color="tab:blue", alpha=float(pairs[i, j]))
        arc.set_linewidth(2)
        ax.add_patch(arc)
    for i, base in enumerate(strand):
        ax.text(i, -0.4, base, ha="center", va="top", fontsize="small", family="monospace")
    ax.set(xlim=(-1, n), ylim=(-2, n / 2), aspect="equal", title=title)
    ax.set_axis_off()


def picture(strand: str, space: Folding, scores: Tensor, post: sl.SparseDistribution) -> Figure:
    """The marginals under softmax and under SparseMAP, and the most probable foldings of the latter."""
    shown = min(int(post.support_size), 4)
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False)
    left, right = above.subplots(1, 2)
    draw_arcs(left, strand, space.marginals(scores), "Marginals of softmax: every folding has some probability")
    draw_arcs(right, strand, post.marginals, f"Marginals of SparseMAP, of {int(post.support_size)} foldings")
    axes = below.subplots(1, 4)
    for ax in axes:
        ax.set_axis_off()
    for ax, z, p in zip(axes, post.structures[:shown], post.probs, strict=False):
        draw_arcs(ax, strand, z, f"{p:.3f}")
    return figure


def main(strand: str, scale: float, out: str) -> None:
    """Fold, report, draw."""
    space, scores = Folding(len(strand)), bond_scores(strand.upper(), scale)
    post = report(space, strand.upper(), scores)
    figure = picture(strand.upper(), space, scores, post)
    write_whole(Path(out), lambda beside: figure.savefig(beside, dpi=100))
    print(f"\nWritten: {out}")


if __name__ == "__main__":
    parser = ArgumentParser(description="A dynamic program of your own: foldings of RNA, from their recursion alone.")
    parser.add_argument("--strand", type=str, default="GGCAAUGCCUUCGGGUAUUGCAGC", help="the bases: A, C, G, U")
    parser.add_argument("--scale", type=float, default=1.0, help="what scores are multiplied by")
    parser.add_argument("--out", default="out/custom_dynamic_program.png", help="the picture")
    arguments = parser.parse_args()
    if not arguments.strand or set(arguments.strand.upper()) - set("ACGU"):
        parser.error(f"--strand: got {arguments.strand!r}; expected letters of A, C, G and U")
    try:
        main(**arguments.as_dict())
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        sys.exit(130)
