"""Numba kernels that draw arborescences with probability proportional to the product of their arcs' weights.

Words take their heads one after the other, each with its probability given the heads so far. A word's head is h with
probability proportional to its weight times the probability that a walk from h, which goes from word to head at random
by weight, comes to the root before it comes back to the word (what the matrix-tree theorem says of such trees). A word
that has its head becomes one node with it, so that the graph shrinks: O(n^4 / 12) a tree.

Nothing is subtracted (Grassmann, Taksar and Heyman 1985), and all is done with logarithms, so that the probabilities
have all their digits at any scale, and what is impossible has probability 0.
"""

from __future__ import annotations

import numpy as np

from oracles._arrays import Floats, Ints
from oracles._jit import inlined_kernel, kernel


@inlined_kernel
def _log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    high, low = (a, b) if a > b else (b, a)
    return high if low == -np.inf else high + np.log1p(np.exp(low - high))


@kernel
def draw_trees(scores: Floats, single: bool, uniform: Floats, out: Ints, start: int, stop: int) -> None:
    """Heads out[i, b] [n] by scores[b] [n, n + 1] and numbers uniform[i, b] [n]; each row must have a tree."""
    for b in range(start, stop):
        for i in range(len(out)):
            _draw(scores[b], single, uniform[i, b], out[i, b])


@kernel
def _draw(scores: Floats, single: bool, uniform: Floats, heads: Ints) -> None:
    n, top = scores.shape[0], -1
    if single:
        top = _pick(_root_weights(scores), uniform[n - 1])
        heads[top] = 0
    # the words without a head, and the place among them of what a head belongs to: 0 is the root
    words, within = np.empty(n, np.int64), np.zeros(n + 1, np.int64)
    left = 0
    for m in range(n):
        if m != top:
            words[left] = m
            left += 1
            within[m + 1] = left
    weight = np.empty((left, left + 1))
    for i in range(left):
        weight[i, 0] = scores[words[i], top + 1]
        for j in range(left):
            weight[i, j + 1] = scores[words[i], words[j] + 1]
    reached, choice = np.empty(left + 1), np.empty(n + 1)
    for last in range(left - 1, -1, -1):
        m = words[last]
        _reach(weight[: last + 1, : last + 2].copy(), reached)
        for h in range(n + 1):
            outside = within[h] == last + 1 or (single and h == 0)
            choice[h] = -np.inf if outside else scores[m, h] + reached[within[h]]
        heads[m] = _pick(choice, uniform[last])
        into = within[heads[m]]
        for h in range(1, n + 1):
            within[h] = into if within[h] == last + 1 else within[h]
        for i in range(last):
            weight[i, into] = _log_add(weight[i, into], weight[i, last + 1])


@kernel
def _reach(weight: Floats, reached: Floats) -> None:
    """Log-probabilities that a walk comes to the root before the last word, from the root and each word.

    weight [k, k + 1]: to the root, and to each word; what a word has to itself is never read.
    """
    k = weight.shape[0]
    _eliminate(weight, True)
    reached[0], reached[k] = 0.0, -np.inf
    for i in range(k - 2, -1, -1):
        total = weight[i, 0]
        for j in range(i + 2, k):
            total = _log_add(total, weight[i, j] + reached[j])
        reached[i + 1] = total


@kernel
def _eliminate(weight: Floats, root: bool) -> None:
    """Take words out of the graph, all but the last: arcs through them become arcs past them.

    The row of each becomes the log-probabilities of where it went, its diagonal (column i + 1) the total weight.
    """
    k = weight.shape[0]
    for i in range(k - 1):
        total = weight[i, 0] if root else -np.inf
        for h in range(i + 2, k + 1):
            total = _log_add(total, weight[i, h])
        weight[i, i + 1] = total
        weight[i, 0] = weight[i, 0] - total if root else -np.inf
        for h in range(i + 2, k + 1):
            weight[i, h] -= total
        for j in range(i + 1, k):
            into = weight[j, i + 1]
            if into > -np.inf:
                if root:
                    weight[j, 0] = _log_add(weight[j, 0], into + weight[i, 0])
                for h in range(i + 2, k + 1):
                    if h != j + 1:
                        weight[j, h] = _log_add(weight[j, h], into + weight[i, h])


@kernel
def _root_weights(scores: Floats) -> Floats:
    """Log-weights of the trees in which each word is the root's only child, but for a common factor.

    By the theorem that they are the stationary distribution of the walk among the words. Words are taken out up to one
    that all others lead to.
    """
    n = scores.shape[0]
    end, order = _common_end(scores), np.arange(n)
    order[end], order[n - 1] = n - 1, end
    weight = np.empty((n, n + 1))
    for i in range(n):
        for j in range(n):
            weight[i, j + 1] = scores[order[i], order[j] + 1]
    _eliminate(weight, False)
    out, share = np.empty(n), np.zeros(n)
    for i in range(n - 2, -1, -1):
        total = -np.inf
        for j in range(i + 1, n):
            total = _log_add(total, share[j] + weight[j, i + 1])
        share[i] = total - weight[i, i + 1]
    for i in range(n):
        out[order[i]] = share[i] + scores[order[i], 0]
    return out


@kernel
def _common_end(scores: Floats) -> int:
    """A word that can be reached from all others without the root, if there is one.

    The start of the last search that finds anything, as in Kosaraju's algorithm: whoever reaches it reaches all before.
    """
    n = scores.shape[0]
    seen, stack, end = np.zeros(n, np.bool_), np.empty(n, np.int64), 0
    for start in range(n):
        if seen[start]:
            continue
        end, size = start, 1
        stack[0], seen[start] = start, True
        while size > 0:
            size -= 1
            h = stack[size]
            for m in range(n):
                if not seen[m] and scores[m, h + 1] > -np.inf:
                    seen[m] = True
                    stack[size] = m
                    size += 1
    return end


@kernel
def _pick(weight: Floats, uniform: float) -> int:
    """An index with probability proportional to exp(weight), of which one at least is not 0."""
    peak = weight.max()
    total = 0.0
    for i in range(len(weight)):
        total += np.exp(weight[i] - peak)
    last, level = 0, uniform * total
    for i in range(len(weight)):
        own = np.exp(weight[i] - peak)
        if own > 0.0:
            last = i
            level -= own
            if level < 0.0:
                break
    return last
