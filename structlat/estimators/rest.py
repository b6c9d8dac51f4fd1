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

NEGLIGIBLE = 1e-12  # probability of the rest: what rounding may leave of 1 - 1
TRIES = (4, 16, 64)  # draws of q at once, before the rest is taken apart
BONUS = 100.0  # nats for each part that has to be on: structures without one keep exp(-100) of their probability
ENTRIES = 2**22  # scores of subproblems at once


class Split(NamedTuple):
    """The k best structures, then one of the others."""

    z: Tensor  # [k + 1, *batch, *event]
    log_prob: Tensor  # [k + 1, *batch], differentiable
    there: Tensor  # [k + 1, *batch]; where it is False, there is no such structure, and z is the row's best
    rest: Tensor  # the probability of all others, [*batch]


def split_listed(q: Listed, k: int, generator: torch.Generator | None) -> Split:
    """Where all structures are listed, those that are summed over are struck off."""
    p = q.probs.detach()
    p_best, best = p.topk(min(k, p.shape[-1]), -1)
    left = p.scatter(-1, best, 0)
    rest = left.sum(-1)
    there = torch.cat([p_best.movedim(-1, 0), rest.unsqueeze(0)]) > 0
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
        more = [x[rows] if len(x) == len(scores) else x for x in extra]
        one[rows] = _sample_others(problem.structure, scores[rows], more, best[rows], valid[rows], generator)
    z = torch.stack([problem.dressed(x) for x in (*best.unbind(1), one)])
    log_prob = q.gibbs.log_prob(z)
    there = torch.cat([valid.T, some.unsqueeze(0)]).reshape(log_prob.shape)
    return Split(z, log_prob, there, problem.unflatten(torch.where(some, rest, 0)).to(log_prob.dtype))


def _sample_others(
    structure: Structure,
    scores: Tensor,
    extra: list[Tensor],
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
        drawn = flat_sample(structure, *_rows(rows, scores, *extra), count=count, generator=generator).to(z.dtype)
        same = (drawn.unsqueeze(2) == best[rows]).reshape(*drawn.shape[:2], best.shape[1], -1).all(-1)
        new = ~(same & valid[rows]).any(-1)
        found, first = new.any(0), new.to(torch.uint8).argmax(0)
        z[rows[found]] = drawn[first, torch.arange(len(rows), device=rows.device)][found]
        rows = rows[~found]
        if not len(rows):
            return z
    for row in rows:
        alone = _rows(row.reshape(1), scores, *extra)
        z[row] = _sample_apart(structure, *alone, best=best[row][valid[row]], generator=generator)
    return z


def _rows(rows: Tensor, scores: Tensor, *extra: Tensor) -> tuple[Tensor, ...]:
    """Some of the rows; what all of them share stays one."""
    return scores[rows], *(x[rows] if len(x) == len(scores) else x for x in extra)


def _sample_apart(
    structure: Structure, scores: Tensor, *extra: Tensor, best: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Z [*event] from softmax over all structures but ``best`` [K, *event], for a single row.

    Read vertices as words. One that is none of the best has a first part in which it differs from those that it was
    equal to until then. These beginnings, parts that are on and parts that are off, divide the others among them: q
    chooses one of them by its sum over structures, and then within it.
    """
    word = structure.vertex(best).reshape(len(best), -1) > 0
    equal = word.unsqueeze(1) == word
    until = torch.cat([torch.ones_like(equal[..., :1]), equal[..., :-1].cumprod(-1) > 0], -1)
    earlier = torch.ones(len(word), len(word), dtype=torch.bool, device=word.device).tril(-1).unsqueeze(-1)
    taken = (until & ~equal).any(1) | (until & equal & earlier).any(1)
    which, end = (~taken).nonzero(as_tuple=True)
    place = torch.arange(word.shape[-1], device=word.device)
    fixed, last = place <= end.unsqueeze(1), place == end.unsqueeze(1)
    on = fixed & (word[which] ^ last)
    asked = torch.where(on, scores.reshape(1, -1) + BONUS, scores.reshape(1, -1))
    asked = torch.where(fixed & ~on, -torch.inf, asked).reshape(-1, *structure.shape)
    parts = asked.split(max(ENTRIES // word.shape[-1], 1))
    total = torch.cat([flat_log_partition(structure, part, *extra) for part in parts]) - BONUS * on.sum(-1)
    chosen = pick(total.softmax(-1), 1, generator)
    return flat_sample(structure, asked[chosen], *extra, count=1, generator=generator)[0, 0]
