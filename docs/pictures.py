"""One picture a latent space: the structures to which SparseMAP gives probability, for a small example each.

    python docs/pictures.py

Scores are made up by hand, or from distances and spellings, with a little noise of a fixed seed where all would tie.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import networkx
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import structlat as sl
import structlat.plot

COLOURS = 96  # in a file: a third of the size of one with all of them
PICTURES: dict[str, Callable[[], Figure]] = {}

# Places on a map, and the roads between them
TOWNS = {
    "Porto": (0.0, 3.2),
    "Lisbon": (-0.3, 0.4),
    "Seville": (2.2, -0.9),
    "Madrid": (3.8, 2.3),
    "Bilbao": (4.2, 5.0),
    "Valencia": (6.6, 1.1),
    "Barcelona": (8.4, 3.5),
}
ROADS = (
    ("Porto", "Lisbon"),
    ("Porto", "Madrid"),
    ("Porto", "Bilbao"),
    ("Lisbon", "Seville"),
    ("Lisbon", "Madrid"),
    ("Seville", "Madrid"),
    ("Seville", "Valencia"),
    ("Madrid", "Bilbao"),
    ("Madrid", "Valencia"),
    ("Madrid", "Barcelona"),
    ("Bilbao", "Barcelona"),
    ("Valencia", "Barcelona"),
)


def picture(make: Callable[[], Figure]) -> Callable[[], Figure]:
    """Register a picture under the name of the function."""
    PICTURES[make.__name__] = make
    return make


def noise(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    """Normal numbers, the same every time."""
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def draw(
    space: sl.Structure,
    *scores: Tensor,
    gamma: float = 1.0,
    limit: int = 6,
    names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> Figure:
    """The support of SparseMAP."""
    post = sl.sparsemap(space, *scores, gamma=gamma)
    figure = structlat.plot.distribution(post, limit=limit, names=names, labels=labels)
    assert isinstance(figure, Figure)
    return figure


@picture
def categorical() -> Figure:
    """What an animal in a blurred photograph may be."""
    animals = ("cat", "dog", "fox", "hare", "owl", "stoat")
    return draw(sl.Categorical(6), torch.tensor([0.9, 0.7, 1.0, 0.1, -0.6, 0.3]), names=animals)


@picture
def bit_vector() -> Figure:
    """Eight independent bits."""
    return draw(sl.BitVector(8), torch.tensor([2.0, -0.6, -2.0, 0.5, 2.0, -2.0, 0.1, -0.2]))


@picture
def budget_bit_vector() -> Figure:
    """Exactly three of eight bits."""
    scores = torch.tensor([1.3, 0.2, -1.0, 0.6, 0.9, -0.4, 0.7, 0.3])
    return draw(sl.BudgetBitVector(8, 3, exact=True), scores)


@picture
def knapsack() -> Figure:
    """What to take along: each thing weighs something, and is of some use."""
    things = {
        "tent": (5, 1.4),
        "stove": (3, 0.8),
        "rope": (2, 0.5),
        "book": (1, 0.3),
        "lamp": (1, 0.5),
        "tarp": (3, 0.9),
    }
    weights, use = zip(*things.values(), strict=True)
    return draw(sl.Knapsack(weights, 8), torch.tensor(use), gamma=0.5, names=list(things))


@picture
def linear_chain() -> Figure:
    """Parts of speech of a sentence that can be read in three ways."""
    words = ("time", "flies", "like", "an", "arrow")
    tags = ("noun", "verb", "prep", "det")
    scores = torch.tensor(
        [[1.6, 1.3, -1, -1], [1.4, 1.5, -1, -1], [-1, 1.3, 1.6, -1], [-1, -1, -1, 2], [2, 0, -1, -1]],
        dtype=torch.float64,
    )
    transition = torch.tensor(
        [[0.0, 0.4, 0.3, -1], [0.3, -1, 0.3, 0.4], [0.2, -1, -1, 0.5], [1, -1, -1, -1]], dtype=torch.float64
    )
    return draw(sl.LinearChain(5, 4), scores, transition, gamma=1.3, names=words, labels=tags)


@picture
def semi_markov() -> Figure:
    """Names in a sentence, some of which may be one name or two."""
    words = ("The", "Bank", "of", "England", "left", "New", "York")
    labels = ("other", "firm", "place")
    space = sl.SemiMarkov(len(words), len(labels), 4)
    scores = torch.full(space.shape, -1.0, dtype=torch.float64)
    scores[:, 0, 0] = torch.tensor([1.0, 0.2, 0.4, 0, 1, 0, 0])
    for start, end, label, score in (
        ("Bank", "England", 1, 1.5), ("The", "England", 1, 1.6), ("Bank", "Bank", 1, 0.7),
        ("England", "England", 2, 0.9), ("New", "York", 2, 1.2), ("York", "York", 2, 1.0),
    ):  # fmt: skip
        scores[words.index(start), words.index(end) - words.index(start), label] = score
    return draw(space, scores, torch.zeros(3, 3), gamma=0.7, names=words, labels=labels)


@picture
def alignment() -> Figure:
    """Two words, letter by letter: where the same letters meet it is worth a diagonal step."""
    rows, cols = "banana", "ananas"
    space = sl.Alignment(len(rows), len(cols))
    same = torch.tensor([[a == b for b in cols] for a in rows], dtype=torch.float64)
    scores = torch.stack([2 * same - 0.2, same - 0.7, same - 0.7], -1) + noise(*space.shape, scale=0.05)
    return draw(space, scores, gamma=1.5, names=tuple(rows), labels=tuple(cols))


@picture
def dependency_tree() -> Figure:
    """Who has the telescope?"""
    words, scores = telescope()
    return draw(sl.DependencyTree(len(words)), scores, names=words)


@picture
def restricted() -> Figure:
    """The same sentence, now that she looks through the telescope: that "with" hangs on "saw" is fixed."""
    words, scores = telescope()
    on = torch.zeros(scores.shape, dtype=torch.bool)
    on[words.index("with"), words.index("saw") + 1] = True
    return draw(sl.Restricted(sl.DependencyTree(len(words)), on=on), scores, names=words)


def telescope() -> tuple[tuple[str, ...], Tensor]:
    """The words of a sentence, and scores of their heads."""
    words = ("She", "saw", "the", "man", "with", "a", "telescope")
    space = sl.DependencyTree(len(words))
    scores = torch.full(space.shape, -1.0, dtype=torch.float64)
    for word, head, score in (
        ("She", "saw", 1.5), ("saw", None, 1.5), ("the", "man", 1.5), ("man", "saw", 1.5), ("with", "saw", 1.0),
        ("with", "man", 0.8), ("a", "telescope", 1.5), ("telescope", "with", 1.2), ("telescope", "saw", 0.3),
    ):  # fmt: skip
        scores[words.index(word), 0 if head is None else words.index(head) + 1] = score
    return words, scores


@picture
def binary_tree() -> Figure:
    """Who is old?"""
    leaves = ("old", "men", "and", "women")
    labels = ("A", "N", "C", "NP")
    space = sl.BinaryTree(len(leaves), len(labels))
    scores = torch.full(space.shape, -1.0, dtype=torch.float64)
    for first, last, label, score in (
        (0, 0, "A", 1), (1, 1, "N", 1), (2, 2, "C", 1), (3, 3, "N", 1), (0, 1, "NP", 1.0), (1, 3, "NP", 0.9),
        (2, 3, "NP", 0.6), (0, 2, "NP", 0.2), (1, 2, "NP", -0.5), (0, 3, "NP", 1),
    ):  # fmt: skip
        scores[first, last, labels.index(label)] = score
    return draw(space, scores, names=leaves, labels=labels)


@picture
def spanning_tree() -> Figure:
    """Roads that connect all towns, short ones preferred."""
    space = sl.SpanningTree(networkx.Graph(ROADS))
    return draw(space, torch.tensor([-0.6 * distance(road) for road in space.edges]), limit=3)


@picture
def shortest_path() -> Figure:
    """From Lisbon to Barcelona, along roads that lead to the east."""
    eastwards = [sorted(road, key=lambda town: TOWNS[town][0]) for road in ROADS]
    space = sl.ShortestPath(networkx.DiGraph(eastwards), "Lisbon", "Barcelona")
    return draw(space, torch.tensor([-0.5 * distance(road) for road in space.edges]))


@picture
def general_matching() -> Figure:
    """Who shares a room with whom."""
    people = ("Ada", "Bo", "Cleo", "Dan", "Eve", "Finn")
    graph = networkx.Graph([pair for pair in itertools.combinations(people, 2) if pair != ("Ada", "Finn")])
    space = sl.GeneralMatching(graph)
    return draw(space, 0.5 + noise(len(space.edges), scale=0.8, seed=3))


@picture
def bipartite_matching() -> Figure:
    """Who does what; somebody may have nothing to do."""
    people, jobs = ("Ada", "Bo", "Cleo", "Dan"), ("cook", "drive", "sing")
    scores = torch.tensor([[0.9, 0.4, 0.1], [0.8, 0.9, -0.5], [-0.6, 0.5, 0.3], [0.4, -0.2, 0.6]])
    return draw(sl.BipartiteMatching(4, 3, partial=True), scores, names=people, labels=jobs)


@picture
def permutation() -> Figure:
    """Four runners, and the places that they may come in at."""
    runners = ("Ada", "Bo", "Cleo", "Dan")
    speed, place = torch.tensor([1.2, 0.9, 0.2, -0.3]), torch.tensor([1.0, 0.4, -0.2, -1.2])
    scores = speed.unsqueeze(-1) * place
    return draw(sl.Permutation(4), scores, names=runners, labels=("1st", "2nd", "3rd", "4th"))


@picture
def product() -> Figure:
    """A chain, bits and a label, independent of each other."""
    space = sl.Product(sl.LinearChain(6, 3), sl.BitVector(6, symmetric=False), sl.Categorical(6))
    transition = 0.6 * torch.eye(3, dtype=torch.float64)
    members = (noise(6, 3, scale=0.8), 0.5 + noise(6, scale=0.7), noise(6))
    return draw(space, space.join(*members), transition, gamma=0.5, limit=4)


def distance(road: tuple[Any, Any]) -> float:
    """Between two towns."""
    return math.dist(*(TOWNS[town] for town in road))


def main(out: Path, only: Sequence[str]) -> None:
    """Draw all of them, or those that were asked for."""
    matplotlib.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    for name in only or PICTURES:
        path = out / f"{name}.png"
        # written under another name and renamed: nobody ever reads half a picture
        unfinished = path.with_name(f".{name}.unfinished.png")
        figure, drawn = PICTURES[name](), io.BytesIO()
        figure.savefig(drawn, dpi=100)
        Image.open(drawn).convert("RGB").quantize(COLOURS).save(unfinished, optimize=True)
        unfinished.replace(path)
        print(f"Written: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One picture a latent space.")
    parser.add_argument("only", nargs="*", choices=[[], *PICTURES], default=[], help="which; all of them by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images" / "structures", help="folder")
    settings = parser.parse_args()
    main(settings.out, settings.only)
