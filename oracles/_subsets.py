"""Numba kernels that list subsets in order of increasing cost, best first, by a heap over a tree of subsets.

Each subset is one node of a tree in which no child is cheaper than its parent (as in Lawler 1972): so k
pops of a heap give the k cheapest, each exactly once, in O(k log k) a row besides what it takes to write
them out. A node holds only what it moved last (`item`, `place`) and the node before that (`before`); the
subset is read off by following `before`. Costs are sums of numbers >= 0 in a fixed order: nothing cancels,
and no child is cheaper through rounding. Ties: the node made first.

The kernels share this file with their heap on purpose: Numba's cache watches the file of the kernel itself,
not the files it calls into.
"""

from __future__ import annotations

import numpy as np

from oracles._arrays import Bools, Floats, Ints
from oracles._jit import kernel


@kernel
def _push(heap: Ints, size: int, cost: Floats, node: int) -> int:
    """Add a node to the binary heap `heap[:size]`, ordered by (cost, node). Returns the new size."""
    child = size
    while child > 0:
        parent = (child - 1) // 2
        other = heap[parent]
        if cost[other] < cost[node] or (cost[other] == cost[node] and other < node):
            break
        heap[child] = other
        child = parent
    heap[child] = node
    return size + 1


@kernel
def _pop(heap: Ints, size: int, cost: Floats) -> int:
    """Remove the cheapest node from `heap[:size]` and return it; the size is then one less."""
    top: int = heap[0]
    node = heap[size - 1]
    hole, child = 0, 1
    while child < size - 1:
        first, second = heap[child], heap[child + 1]
        if child + 1 < size - 1 and (cost[second] < cost[first] or (cost[second] == cost[first] and second < first)):
            child += 1
            first = second
        if cost[node] < cost[first] or (cost[node] == cost[first] and node < first):
            break
        heap[hole] = first
        hole, child = child, 2 * child + 1
    heap[hole] = node
    return top


@kernel
def cheapest_flips(costs: Floats, index: Ints, z: Bools, count: Ints) -> None:
    """Flip in z[b, j] the j-th cheapest set of bits, j = 0 the empty one; count[b]: how many sets there were.

    costs [B, m] increasing, inf for what must not flip; index [B, m] the bit of each; z [B, k, n] holds the
    bits to start from. Children of a set whose last bit is r: add r + 1; replace r by r + 1.
    """
    k, m = z.shape[1], costs.shape[1]
    cost = np.empty(2 * k)
    item, before = np.empty(2 * k, np.int64), np.empty(2 * k, np.int64)
    heap = np.empty(2 * k, np.int64)
    for b in range(z.shape[0]):
        size = nodes = 0
        if k > 1 and m > 0 and costs[b, 0] < np.inf:
            cost[0], item[0], before[0] = costs[b, 0], 0, -1
            size, nodes = _push(heap, size, cost, 0), 1
        count[b] = 1
        while size > 0 and count[b] < k:
            node = _pop(heap, size, cost)
            size -= 1
            step = node
            while step >= 0:
                bit = index[b, item[step]]
                z[b, count[b], bit] = not z[b, count[b], bit]
                step = before[step]
            count[b] += 1
            following = item[node] + 1
            if following < m and costs[b, following] < np.inf:
                for base in (node, before[node]):  # add to the set; replace its last
                    cost[nodes] = costs[b, following] + (cost[base] if base >= 0 else 0.0)
                    item[nodes], before[nodes] = following, base
                    size = _push(heap, size, cost, nodes)
                    nodes += 1


@kernel
def cheapest_exchanges(
    ranked: Floats, index: Ints, finite: Ints, lows: Ints, highs: Ints, z: Bools, count: Ints
) -> None:
    """Set in z[b, j] the j-th best subset with lows[b]..highs[b] ones; count[b]: how many there were.

    ranked [B, n] decreasing scores, of which the first finite[b] are above -inf; index [B, n] the bit of
    each; z [B, k, n] comes all False. The best subset of size m is places 0..m-1. Its elements move right,
    the last one first: `item` a started at place a and stands at `place`, those before it have not moved,
    those after it stand where `before` says. A size's root is an imaginary element m, already at the far
    end. Children: the element one place further, if free; or the element before it one place, if free.
    """
    k = z.shape[1]
    room = 2 * k + 1
    for b in range(z.shape[0]):
        room = max(room, 2 * k + 1 + highs[b] - lows[b])
    cost = np.empty(room)
    item, place = np.empty(room, np.int64), np.empty(room, np.int64)
    before, heap = np.empty(room, np.int64), np.empty(room, np.int64)
    for b in range(z.shape[0]):
        end, size, nodes, low = finite[b], 0, 0, lows[b]
        most = min(highs[b], end)
        best = low
        while best < most and ranked[b, best] > 0.0:
            best += 1
        for m in range(low, most + 1):
            cost[m - low], item[m - low], place[m - low], before[m - low] = 0.0, m, end, -1
        for m in range(best - 1, low - 1, -1):  # what is missing below the best size
            cost[m - low] = cost[m - low + 1] + ranked[b, m]
        for m in range(best + 1, most + 1):  # and what is too much above it
            cost[m - low] = cost[m - low - 1] - ranked[b, m - 1]
        while nodes <= most - low:
            size = _push(heap, size, cost, nodes)
            nodes += 1
        count[b] = 0
        while size > 0 and count[b] < k:
            node = _pop(heap, size, cost)
            size -= 1
            for rank in range(item[node]):
                z[b, count[b], index[b, rank]] = True
            step = node
            while before[step] >= 0:
                z[b, count[b], index[b, place[step]]] = True
                step = before[step]
            count[b] += 1
            moves = item[node]
            if before[node] >= 0 and place[node] + 1 < place[before[node]]:
                cost[nodes] = cost[before[node]] + (ranked[b, moves] - ranked[b, place[node] + 1])
                item[nodes], place[nodes], before[nodes] = moves, place[node] + 1, before[node]
                size = _push(heap, size, cost, nodes)
                nodes += 1
            if moves >= 1 and moves < place[node]:
                cost[nodes] = cost[node] + (ranked[b, moves - 1] - ranked[b, moves])
                item[nodes], place[nodes], before[nodes] = moves - 1, moves, node
                size = _push(heap, size, cost, nodes)
                nodes += 1
