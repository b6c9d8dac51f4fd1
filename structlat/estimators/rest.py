"""The best structures of each row, and a sample of q restricted to all others: what sum-and-sample is made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structlat import opaque
from structlat.estimators.posterior import Listed, Summed, pick
from structlat.problem import make_problem
from structlat.structure import Structure
from structlat.tractable import flat_log_partition, flat_sample

NEGLIGIBLE = 1e-12  # probability: what rounding may leave of 1 - 1; and numbers near 1e-45 have no inverse in float32
TRIES = (4, 16, 64)  # draws of q at once, before the rest is taken apart
BONUS = 100.0  # nats for each part that has to be on: structures without one keep exp(-100) of their probability
ENTRIES = 2**22  # scores of subproblems at once


class Split(NamedTuple):
    """The k best structures, then one of the others."""

    z: Tensor  # [k + 1, *batch, *event]
    log_prob: Tensor  # [k + 1, *batch], differentiable
    there: Tensor  # [k + 1, *batch]; where False, no such structure is there, or negligible, and z is the row's best
    rest: Tensor  # the probability of all others, [*batch]


def split_listed(q: Listed, k: int, generator: torch.Generator | None) -> Split:
    """Where all structures are listed, those that are summed over are struck off."""
    p = q.probs.detach()
    p_best, best = p.topk(min(k, p.shape[-1]), -1)
    left = p.scatter(-1, best, 0)
    rest = left.sum(-1)
    there = torch.cat([p_best.movedim(-1, 0), rest.unsqueeze(0)]) > NEGLIGIBLE
    one = pick(torch.where(there[-1].unsqueeze(-1), left, p), 1, generator)
    index = torch.where(there, torch.cat([best.movedim(-1, 0), one]), best[..., 0])
    return Split(*q.take(index), there, rest)


def split_summed(q: Summed, k: int, generator: torch.Generator | None) -> Split:
    """Elsewhere by the space's k best and its sampler."""
    problem = make_problem(q.structure, q.scores, q.extra)
    best, valid = opaque.topk(*problem.detached(), q.structure.handle, k, problem.batch_shape)
    p = (problem.score(best).detach() - q.gibbs._total.detach().unsqueeze(1)).exp()
    rest = 1 - torch.where(valid, p, 0).sum(1)
    some = rest > NEGLIGIBLE + 1e-14 * q.gibbs._total.detach().abs()
    one = best[:, 0].clone()
    rows = some.nonzero().squeeze(1)
    if len(rows):
        scores, extra = problem.detached()
        more = _of(rows, scores, tuple(extra))
        one[rows] = _sample_others(problem.structure, scores[rows], more, best[rows], valid[rows], generator)
    z = torch.stack([problem.dressed(x) for x in (*best.unbind(1), one)])
    log_prob = q.gibbs.log_prob(z)
    there = torch.cat([valid.T, some.unsqueeze(0)]).reshape(log_prob.shape)
    return Split(z, log_prob, there, problem.unflatten(torch.where(some, rest, 0)).to(log_prob.dtype))


def _sample_others(
    structure: Structure,
    scores: Tensor,
    extra: tuple[Tensor, ...],
    best: Tensor,
    valid: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Z [B, *event] from softmax over the structures that are none of ``best`` [B, k, *event], where ``valid`` [B, k].

    Draws until one is another, some dozens of times; the rows that are left then have the others taken apart.
    """
    z = best[:, 0].clone()
    rows = torch.arange(len(scores), device=scores.device)
    for count in TRIES:
        drawn = flat_sample(structure, scores[rows], *_of(rows, scores, extra), count=count, generator=generator).to(
            z.dtype
        )
        same = (drawn.unsqueeze(2) == best[rows]).reshape(*drawn.shape[:2], best.shape[1], -1).all(-1)
        new = ~(same & valid[rows]).any(-1)
        found, first = new.any(0), new.to(torch.uint8).argmax(0)
        z[rows[found]] = drawn[first, torch.arange(len(rows), device=rows.device)][found]
        rows = rows[~found]
        if not len(rows):
            return z
    left = _sample_apart(structure, scores[rows], _of(rows, scores, extra), best[rows], valid[rows], generator)
    z[rows] = left.to(z.dtype)
    return z


def _sample_apart(
    structure: Structure,
    scores: Tensor,
    extra: tuple[Tensor, ...],
    best: Tensor,
    valid: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """The same, at the cost of a sum over structures for each part of each of the best.

    Read vertices as words. One that is none of the best has a first part in which it differs from those that it was
    equal to until then. These beginnings, parts that are on and parts that are off, divide the others among them: q
    chooses a beginning by the sum over its structures, and then one of these.
    """
    count, k = valid.shape
    word = structure.vertex(best).reshape(count, k, -1) > 0
    equal = word.unsqueeze(2) == word.unsqueeze(1)  # [B, k, k, parts]
    until = torch.cat([torch.ones_like(equal[..., :1]), equal[..., :-1].cumprod(-1) > 0], -1)
    until &= valid.reshape(count, 1, k, 1)
    earlier = torch.ones(k, k, dtype=torch.bool, device=word.device).tril(-1).unsqueeze(-1)
    taken = (until & ~equal).any(2) | (until & equal & earlier).any(2) | ~valid.unsqueeze(-1)
    totals = scores.new_full(taken.shape, -torch.inf)
    for at in (~taken).nonzero().split(max(ENTRIES // word.shape[-1], 1)):
        row, which, end = at.unbind(1)
        begun, bonus = _begun(scores[row], word[row, which], end)
        totals[row, which, end] = flat_log_partition(structure, begun, *_of(row, scores, extra)) - bonus
    chosen = pick(totals.flatten(start_dim=1).softmax(-1), 1, generator).squeeze(0)
    which, end = chosen // word.shape[-1], chosen % word.shape[-1]
    begun, _ = _begun(scores, word[torch.arange(count, device=word.device), which], end)
    return flat_sample(structure, begun, *extra, count=1, generator=generator)[0]


def _begun(scores: Tensor, word: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [B, *shape] that leave the structures which are ``word`` [B, parts] until ``end`` [B], and not there.

    And the bonus in the score of each of them, [B].
    """
    place = torch.arange(word.shape[-1], device=word.device)
    fixed = place <= end.unsqueeze(1)
    on = fixed & (word ^ (place == end.unsqueeze(1)))
    flat = scores.reshape(word.shape)
    flat = torch.where(fixed & ~on, -torch.inf, torch.where(on, flat + BONUS, flat))
    return flat.reshape(scores.shape), BONUS * on.sum(-1)


def _of(rows: Tensor, scores: Tensor, extra: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Extra scores of some of the rows; what all of them share stays one."""
    return tuple(x[rows] if len(x) == len(scores) else x for x in extra)
