"""check_structure: what to run on a latent space of your own before you trust it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from structlat import lawler
from structlat.errors import ArgumentError, InfeasibleError
from structlat.map_oracle import ask_argmax
from structlat.normalizers import argmax, sparsemap
from structlat.structure import Structure

SCALES = (1e-6, 1.0, 1e6)
CONTAINMENT_LIMIT = 500  # structures up to which every pair is compared


def check_structure(structure: Structure, rows: int = 8, k: int = 6, seed: int = 0, limit: int = 2000) -> None:
    """Check that a structure keeps the contract of :class:`structlat.Structure`; returns None where it does.

    Its ``argmax`` is held against every other structure that is seen (all of them where there are at most
    ``limit``), on random scores of several scales, with ties and with forbidden parts; ``vertex``, ``score``,
    ``topk``, ``enumerate``, ``cardinality`` and ``contains`` are held against each other; SparseMAP has to converge
    on it.

    Parameters
    ----------
    structure : Structure
    rows : int
        Random score vectors of each kind.
    k : int
        How many structures ``topk`` is asked for.
    seed : int
        Of a private random stream: the global one is not touched.
    limit : int
        Up to how many structures everything is enumerated.

    Raises
    ------
    AssertionError
        With a sentence that says what does not hold, and for which scores.
    """
    try:
        checker = _Checker(structure, torch.Generator().manual_seed(seed), limit)
        for scale in SCALES:
            checker.check_scores(checker.random(rows, scale), k, f"random scores of scale {scale:g}")
        checker.check_score(rows)
        checker.check_scores(checker.random(rows, 2.0, torch.round), k, "integer scores with ties")
        checker.check_scores(checker.random(1, 1.0, torch.zeros_like), k, "scores that are all 0")
        checker.check_masks(rows, k)
        checker.check_sparsemap(rows)
    except ArgumentError as error:
        raise AssertionError(str(error)) from error


def _require(holds: bool | Tensor, sentence: str) -> None:
    """An assertion that python -O does not remove."""
    if not holds:
        raise AssertionError(sentence)


class _Checker:
    """The checks, and what they share: the structure, a random stream, every structure where that is feasible."""

    def __init__(self, structure: Structure, generator: torch.Generator, limit: int) -> None:
        _require(isinstance(structure, Structure), f"{structure!r} is no structlat.Structure")
        _require(getattr(structure, "shape", None) is not None, "`shape` is not set")
        self.structure = structure
        self.shapes = [torch.Size(structure.shape), *map(torch.Size, structure.extra_shapes)]
        self.given = len(self.shapes) - len(structure.own_extra)
        own_shapes = self.shapes[self.given :]
        rows = [x.shape[: x.ndim - len(shape)] for x, shape in zip(structure.own_extra, own_shapes, strict=True)]
        self.own_batch = torch.broadcast_shapes(*rows)
        self.generator = generator
        self.every = self._enumerate(limit)

    def random(self, rows: int, scale: float, change: Callable[[Tensor], Tensor] = torch.clone) -> list[Tensor]:
        """Normal scores and extra scores, changed, for ``rows`` examples (for each row that the structure itself has).

        The last are the structure's own extra scores, as they are.
        """
        batch = (rows, *self.own_batch)
        drawn = [
            change(scale * torch.randn(*batch, *shape, generator=self.generator, dtype=torch.float64))
            for shape in self.shapes[: self.given]
        ]
        own = [
            x.to("cpu", torch.float64).expand(*batch, *shape)
            for x, shape in zip(self.structure.own_extra, self.shapes[self.given :], strict=True)
        ]
        return [x.flatten(end_dim=len(batch) - 1) for x in (*drawn, *own)]

    def called(self, inputs: list[Tensor]) -> list[Tensor]:
        """The same as a caller has them: with the structure's own batch dimensions, without its own extra scores."""
        return [x.unflatten(0, (-1, *self.own_batch)) for x in inputs[: self.given]]

    def check_scores(self, inputs: list[Tensor], k: int, kind: str) -> None:
        """MAP and top-k on scores [rows, *shape] (and extra) for which something is feasible."""
        structure, rows = self.structure, len(inputs[0])
        before = [x.clone() for x in inputs]
        answer = ask_argmax(structure, *inputs)
        _require(all(map(torch.equal, before, inputs)), f"argmax changed its input in place ({kind})")
        z, best = answer.z, answer.score
        _require(torch.isfinite(best).all(), f"argmax gave no feasible structure, although there is one ({kind})")
        again = ask_argmax(structure, *inputs).z
        _require(torch.equal(z, again), f"argmax gave two answers to the same scores ({kind})")
        for i in range(rows):
            alone = ask_argmax(structure, *(x[i : i + 1] for x in inputs)).z[0]
            _require(torch.equal(alone, z[i]), f"argmax on the batch differs from argmax on row {i} alone ({kind})")
        self._check_vertices(z, kind)
        # what summing the scores in another order may change, and far less than what separates two structures
        slack = 1e-12 * torch.stack([self._absolute_sum(x) for x in inputs]).sum(0)
        others = z if self.every is None else self.every.to(z.dtype)
        every_score = structure.score(others.unsqueeze(0), *(x.unsqueeze(1) for x in inputs))
        worse = every_score.amax(1) - best
        _require(
            (worse <= slack).all(),
            f"argmax is not a maximum ({kind}): a structure better by {float(worse.max()):.3g} exists for row "
            f"{int(worse.argmax())}",
        )
        self._check_topk(inputs, best, slack, k, kind)

    def check_score(self, rows: int) -> None:
        """``score`` is linear, its slope in the scores is the vertex, and without extra scores that is all of it."""
        structure = self.structure
        one, other = self.random(rows, 1.0), self.random(rows, 1.0)
        z = ask_argmax(structure, *one).z
        added = structure.score(z, *(x + y for x, y in zip(one, other, strict=True)))
        apart = structure.score(z, *one) + structure.score(z, *other)
        _require(torch.allclose(added, apart, rtol=0, atol=1e-9), "score: not linear in the scores")
        slope = torch.func.grad(lambda x: structure.score(z, x, *one[1:]).sum())(one[0])
        a = structure.vertex(z).to(torch.float64)
        _require(torch.allclose(slope, a, rtol=0, atol=1e-9), "score: its gradient in the scores is not the vertex")

    def check_masks(self, rows: int, k: int) -> None:
        """Forbidden parts: a random third of them, as far as something stays feasible, then all of them."""
        inputs = self.random(rows, 1.0)
        feasible = ask_argmax(self.structure, *self.random(rows, 1.0)).z
        keep = self.structure.vertex(feasible) > 0
        drawn = torch.rand(inputs[0].shape, generator=self.generator) < 1 / 3
        inputs[0] = torch.where(drawn & ~keep, -torch.inf, inputs[0])
        self.check_scores(inputs, k, "a third of the parts forbidden by -inf")
        for n, extra in enumerate(inputs[1 : self.given], 1):
            # what the feasible structure uses of the extra parts is the slope of its score

            def total(x: Tensor, n: int = n) -> Tensor:
                return self.structure.score(feasible, *inputs[:n], x, *inputs[n + 1 :]).sum()

            spared = torch.func.grad(total)(torch.zeros_like(extra)) != 0
            drawn = torch.rand(extra.shape, generator=self.generator) < 1 / 3
            inputs[n] = torch.where(drawn & ~spared, -torch.inf, extra)
            self.check_scores(inputs, k, f"a third of the parts of extra[{n - 1}] forbidden by -inf")
        alone = self.random(1, 1.0)
        nothing = [torch.full_like(alone[0], -torch.inf), *alone[1:]]
        try:
            z = argmax(self.structure, *self.called(nothing))
        except InfeasibleError:
            return
        used = self.structure.vertex(z) > 0
        _require(not used.any(), "argmax used a part that is forbidden by -inf")

    def check_sparsemap(self, rows: int) -> None:
        """The generic solver converges, and its mean is the mean of its p."""
        inputs = self.called(self.random(rows, 1.0))
        post = sparsemap(self.structure, *inputs, validate=True, on_failure="ignore", solver="active_set")
        _require(bool(post.info.converged.all()), f"sparsemap did not converge: {post.info.status}")
        weights = post.probs.reshape(post.probs.shape + (1,) * len(self.shapes[0]))
        mean = (weights * self.structure.vertex(post.structures)).sum(len(post.batch_shape))
        _require(torch.allclose(mean, post.mean, atol=1e-10, rtol=0), "the mean of sparsemap is not the mean of its p")

    def _enumerate(self, limit: int) -> Tensor | None:
        structure = self.structure
        try:
            every = structure.enumerate(limit=limit)
        except ArgumentError:
            return None
        _require(len(every) > 0, "enumerate: the space has no structure")
        count = structure.cardinality()
        _require(type(count) is int, f"cardinality: returned {type(count).__name__}; expected int")
        _require(count == len(every), f"cardinality says {count}, enumerate lists {len(every)}")
        _require(len(torch.unique(every, dim=0)) == len(every), "enumerate lists a structure twice")
        a = structure.vertex(every).reshape(count, -1)
        if not structure.extra_shapes:
            _require(len(torch.unique(a, dim=0)) == count, "vertex: two structures share one")
        if count <= CONTAINMENT_LIMIT and structure.antichain:
            for scores, extra in lawler.zero_inputs(structure):
                row = a[torch.isfinite(structure.score(every, scores, *extra))]
                within = (row.unsqueeze(0) <= row.unsqueeze(1)).all(-1).sum(1)
                _require((within == 1).all(), "antichain: it is True, but one vertex contains another")
        if count <= CONTAINMENT_LIMIT and type(structure).enumerate is Structure.enumerate and structure.antichain:
            full = lawler.enumerate_all(structure, limit, antichain=False)
            _require(len(full) == count, f"antichain: it is True, but only without it are all {len(full)} found")
        self._check_vertices(every, "enumerate")
        return every

    def _check_vertices(self, z: Tensor, kind: str) -> None:
        structure = self.structure
        a = structure.vertex(z)
        expected = z.shape[: z.ndim - len(structure.event_shape)] + self.shapes[0]
        _require(a.shape == expected, f"vertex: returned shape {tuple(a.shape)}; expected {tuple(expected)} ({kind})")
        _require(((a == 0) | (a == 1)).all(), f"vertex: not a vector of 0 and 1 ({kind})")
        _require(structure.contains(z).all(), f"contains: denies a structure that {kind} gave")

    def _check_topk(self, inputs: list[Tensor], best: Tensor, slack: Tensor, k: int, kind: str) -> None:
        structure = self.structure
        z, valid = structure.topk(*inputs, k=k)
        expected = (len(best), k, *structure.event_shape)
        _require(tuple(z.shape) == expected, f"topk: returned shape {tuple(z.shape)}; expected {expected} ({kind})")
        _require(valid[:, 0].all(), f"topk: found nothing, although something is feasible ({kind})")
        score = torch.where(valid, structure.score(z, *(x.unsqueeze(1) for x in inputs)), -torch.inf)
        _require(((score[:, 0] - best).abs() <= slack).all(), f"topk: the first is not the MAP structure ({kind})")
        ordered = (score[:, 1:] <= score[:, :-1] + slack.unsqueeze(1)) | ~valid[:, 1:]
        _require(ordered.all(), f"topk: not in descending order of score ({kind})")
        for i in range(len(best)):
            own = z[i][valid[i]]
            _require(len(torch.unique(own, dim=0)) == len(own), f"topk: row {i} has a structure twice ({kind})")
        if self.every is not None:
            every = structure.score(self.every.to(z.dtype).unsqueeze(0), *(x.unsqueeze(1) for x in inputs))
            feasible = torch.isfinite(every).sum(1).clamp(max=k)
            _require(torch.equal(valid.sum(1), feasible), f"topk: `valid` is wrong ({kind})")
            want = every.sort(1, descending=True).values[:, :k]
            near = (score[:, : want.shape[1]] - want).abs() <= slack.unsqueeze(1)
            _require((near | ~valid[:, : want.shape[1]]).all(), f"topk: not the {k} best ({kind})")

    @staticmethod
    def _absolute_sum(x: Tensor) -> Tensor:
        finite = torch.where(torch.isfinite(x), x, 0)
        return finite.abs().reshape(len(x), -1).sum(1)
