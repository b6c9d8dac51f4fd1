"""A latent space that is not built in: paths through a grid, by right and down moves from corner to corner.

    python examples/custom_structure.py

The space is the class ``GridPath`` below, and all that it defines is ``argmax``, a dynamic program. SparseMAP, top-k
sparsemax, enumeration, exact expectations and their gradients follow from that alone. What this script claims, it
asserts.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from files import write_whole
from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, restricted_number_type
from matplotlib.figure import Figure
from torch import Tensor

import structlat as sl
import structlat.plot
import structlat.testing

Side = restricted_number_type("Side", int, [(">=", 2), ("<=", 8)], docstring="whole number from 2 to 8")


class GridPath(sl.Structure):
    """Paths from the top-left to the bottom-right corner, each move right or down. z [rows, cols] is 1 on the path."""

    def __init__(self, rows: int, cols: int) -> None:
        self.shape = torch.Size([rows, cols])

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The path of highest score: best[:, r, c] is what the best way from (r, c) to the end collects."""
        rows, cols = self.shape
        best = torch.nn.functional.pad(scores, (0, 1, 0, 1), value=-torch.inf)
        for r in reversed(range(rows)):
            for c in reversed(range(cols)):
                if (r, c) != (rows - 1, cols - 1):
                    best[:, r, c] += torch.maximum(best[:, r + 1, c], best[:, r, c + 1])
        z, example = torch.zeros_like(scores), torch.arange(len(scores))
        row, col = torch.zeros_like(example), torch.zeros_like(example)
        for _ in range(rows + cols - 1):
            z[example, row, col] = 1
            down = (best[example, row + 1, col] >= best[example, row, col + 1]) & (row < rows - 1) | (col == cols - 1)
            row, col = row + down, col + ~down
        return z


def check_what_follows(space: GridPath, scores: Tensor) -> None:
    """Enumeration, top-k, SparseMAP and its gradient, from ``argmax`` alone. ``scores`` [rows, cols], float64."""
    rows, cols = space.shape
    structlat.testing.check_structure(space, rows=3, k=4)
    print("structlat.testing.check_structure: passed")

    every = space.enumerate()
    assert len(every) == space.cardinality() == math.comb(rows + cols - 2, rows - 1)
    print(f"enumeration: {len(every)} paths, binomial({rows + cols - 2}, {rows - 1})")

    values = space.score(every, scores)
    best, valid = space.topk(scores.unsqueeze(0), k=3)
    assert valid.sum() == min(3, len(every))
    assert torch.allclose(space.score(best[valid], scores), values.sort(descending=True).values[:3])
    print(f"top-k: the best scores are {', '.join(f'{x:.3f}' for x in space.score(best[valid], scores).tolist())}")

    post = sl.sparsemap(space, scores)
    # optimal: no path lies above the plane that the support lies on (the gradient is scores - marginals)
    slope = space.score(every, scores - post.marginals)
    assert slope.max() <= (post.probs * space.score(post.structures, scores - post.marginals)).sum() + 1e-8
    # exact: the expectation of a function of whole paths, here how often they turn
    assert torch.isclose(post.expect(lambda z, _: turns(z)), (post.probs * turns(post.structures)).sum())
    print(
        f"sparsemap: {int(post.support_size)} of {len(every)} paths have probability; duality gap {post.info.gap:.0e}"
    )

    def loss(x: Tensor) -> Tensor:
        return (sl.sparsemap(space, x).marginals * scores.sin()).sum()

    x = scores.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    step = torch.zeros_like(scores)
    step[rows // 2, cols // 2] = 1e-6
    slope = (loss(scores + step) - loss(scores - step)) / 2e-6
    assert torch.isclose(gradient[rows // 2, cols // 2], slope, atol=1e-6)
    print("gradient of the marginals: agrees with a finite difference")


def turns(z: Tensor) -> Tensor:
    """How often paths z [N, rows, cols] turn, [N]: a function of whole paths, which no sum over cells can express."""
    # between its ends a path turns at a cell, or goes straight: both neighbours in the row, or in the column, are on it
    right = (z[:, :, :-2] * z[:, :, 1:-1] * z[:, :, 2:]).sum((1, 2))
    down = (z[:, :-2] * z[:, 1:-1] * z[:, 2:]).sum((1, 2))
    return z.sum((1, 2)) - 2 - right - down


def learn(space: GridPath, scores: Tensor, steps: int = 40) -> tuple[Tensor, list[float]]:
    """Gradient steps on the scores that make the path turn less; the scores at the end, and E[turns] at each step."""
    scores = scores.clone().requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=0.05)
    history = []
    for _ in range(steps):
        expected = sl.sparsemap(space, scores).expect(lambda z, _: turns(z))
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        history.append(float(expected.detach()))
    assert history[-1] <= history[0]
    print(f"learning: expected turns went from {history[0]:.2f} to {history[-1]:.2f} in {steps} steps")
    return scores.detach(), history


def picture(space: GridPath, scores: Tensor, learned: Tensor, history: list[float]) -> Figure:
    """Scores, marginals and the learning curve; below, the paths that have probability before and after learning."""
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    grid = figure.subfigures(3, 1, height_ratios=(2.7, 1.5, 1.5), hspace=0.04, squeeze=False)
    post = sl.sparsemap(space, scores)
    left, middle, right = grid[0, 0].subplots(1, 3)
    for ax, cells, title in ((left, scores, "Scores of the cells"), (middle, post.marginals, "Marginals of SparseMAP")):
        grid[0, 0].colorbar(ax.imshow(cells.numpy(), cmap="Blues"), ax=ax, shrink=0.8)
        ax.set(title=title, xticks=[], yticks=[])
    right.plot(history)
    right.set(title="Learning to go straight", xlabel="step", ylabel="expected number of turns")
    for line, x, when in ((grid[1, 0], scores, "before"), (grid[2, 0], learned, "after")):
        post = sl.sparsemap(space, x)
        line.suptitle(f"Paths with probability {when} learning: {int(post.support_size)}", x=0.01, ha="left")
        structlat.plot.distribution(post, axes=list(line.subplots(1, 8)))
    return figure


def main(rows: int, cols: int, seed: int, out: str) -> None:
    """Check, learn, draw."""
    space = GridPath(rows, cols)
    scores = 0.3 * torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    check_what_follows(space, scores)
    learned, history = learn(space, scores)
    figure = picture(space, scores, learned, history)
    write_whole(Path(out), lambda beside: figure.savefig(beside, dpi=100))
    print(f"Written: {out}")


if __name__ == "__main__":
    parser = ArgumentParser(description="A latent space of your own: paths through a grid, from their argmax alone.")
    parser.add_argument("--rows", type=Side, default=5, help="height of the grid, from 2 to 8")
    parser.add_argument("--cols", type=Side, default=6, help="width of the grid, from 2 to 8")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="of the scores")
    parser.add_argument("--out", default="out/custom_structure.png", help="the picture")
    try:
        main(**parser.parse_args().as_dict())
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        sys.exit(130)
