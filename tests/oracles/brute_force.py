"""The judge: every structure of a small space, scored in extended precision, and what oracles must say."""

import numpy as np


def instances(seed, shape):
    """Scores [B, *shape] of every kind that has broken an oracle: scales, ties, mixtures, masks."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=shape) * scale for scale in (1e-10, 1e-6, 1e-3, 1.0, 1e3, 1e6)]
    rows += [rng.integers(-2, 3, shape) * scale for scale in (1.0, 1.0, 0.1, 1e6)]
    rows += [np.full(shape, value) for value in (0.0, 1.0, -1.0, 0.1)]
    rows += [rng.normal(size=shape) * 10 ** rng.uniform(-6, 6, shape) for _ in range(3)]
    rows += [1.0 + rng.normal(size=shape) * 1e-9]
    for base in (0.0, 100.0, -100.0):
        for one in (1.0, 100.0, -1.0, -100.0):
            rows.append(np.full(shape, base))
            rows[-1].flat[rng.integers(rows[-1].size)] = one
    plain = np.array(rows)
    few, many = rng.random(plain.shape) < 0.15, rng.random(plain.shape) < 0.5
    masked = [np.where(mask, -np.inf, plain) for mask in (few, many)]
    return np.concatenate([plain, *masked, np.full((1, *shape), -np.inf)])


class Judge:
    """Knows all structures [Z, *event] of a space and their 0/1 vertices [Z, *parts]."""

    def __init__(self, structures, vertices):
        self.structures = np.asarray(structures)
        self.vertices = np.asarray(vertices, bool).reshape(len(structures), -1)
        self.index = {tuple(np.ravel(z).tolist()): i for i, z in enumerate(self.structures)}
        assert len(self.index) == len(structures)

    def scores(self, parts):
        """Scores [B, Z] of all structures under the scores [B, P] of the parts."""
        wide = parts.reshape(len(parts), 1, -1).astype(np.longdouble)
        return np.where(self.vertices, wide, 0).sum(axis=2)

    def positions(self, z, batch_dims):
        assert z.shape[batch_dims:] == self.structures.shape[1:]
        found = [self.index[tuple(z[at].ravel().tolist())] for at in np.ndindex(z.shape[:batch_dims])]
        return np.array(found, int).reshape(z.shape[:batch_dims])

    def check_argmax(self, z, parts):
        """The best score, in every row where something is feasible."""
        scores, tolerance = self.scores(parts), tolerances(parts)
        feasible = scores.max(axis=1) > -np.inf
        assert feasible.any()
        found = scores[feasible, self.positions(z[feasible], 1)]
        assert (np.abs(found - scores[feasible].max(axis=1)) <= tolerance[feasible]).all()

    def check_topk(self, z, valid, parts, k):
        """The k best scores in order, no structure twice, `valid` exact, padding as promised."""
        assert z.shape == (len(parts), k, *self.structures.shape[1:])
        assert valid.dtype == bool
        scores, tolerance = self.scores(parts), tolerances(parts)
        for b in range(len(parts)):
            wanted = np.sort(scores[b][scores[b] > -np.inf])[::-1][:k]
            count = len(wanted)
            np.testing.assert_array_equal(valid[b], np.arange(k) < count)
            position = self.positions(z[b, :count], 1)
            assert len(set(position.tolist())) == count
            assert (np.abs(scores[b, position] - wanted) <= tolerance[b]).all(), (
                b,
                scores[b, position],
                wanted,
            )
            if count:
                assert (z[b, count:] == z[b, 0]).all()


def tolerances(parts):
    """What rounding may cost a row: 1e-13 of the scores' absolute sum."""
    flat = parts.reshape(len(parts), -1)
    return 1e-13 * np.where(np.isfinite(flat), np.abs(flat), 0).sum(axis=1)


def check_inputs(argmax, topk, *arrays):
    """Rows do not know of each other; any memory layout, dtype and batch size is the same problem."""

    def same(*variant):
        np.testing.assert_array_equal(argmax(*variant), argmax(*arrays))
        for a, b in zip(topk(*variant), topk(*arrays), strict=True):
            np.testing.assert_array_equal(a, b)

    copies = [x.copy() for x in arrays]
    z, (best, valid) = argmax(*arrays), topk(*arrays)
    for x, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(x, copy)  # nothing is written into the input
    assert len(z) == len(best) == len(valid) == len(arrays[0])
    for b in range(len(arrays[0])):
        one = [x[b : b + 1] for x in arrays]
        np.testing.assert_array_equal(argmax(*one)[0], z[b])
        np.testing.assert_array_equal(topk(*one)[0][0], best[b])
        np.testing.assert_array_equal(topk(*one)[1][0], valid[b])

    same(*(np.asfortranarray(x) for x in arrays))
    same(*(np.repeat(x, 2, axis=-1)[..., ::2] for x in arrays))
    same(*(x[::-1].copy()[::-1] for x in arrays))
    same(*(x.astype(">f8") for x in arrays))
    frozen = [x.copy() for x in arrays]
    for x in frozen:
        x.flags.writeable = False
    same(*frozen)

    with np.errstate(over="ignore", under="ignore"):
        narrow = [x.astype(np.float32) for x in arrays]
    wide = [x.astype(np.float64) for x in narrow]
    np.testing.assert_array_equal(argmax(*narrow), argmax(*wide))
    np.testing.assert_array_equal(topk(*narrow)[0], topk(*wide)[0])
    whole = [np.where(np.isfinite(x), np.clip(x, -9, 9), 0).round() for x in arrays]
    np.testing.assert_array_equal(topk(*(x.astype(np.int32) for x in whole))[0], topk(*whole)[0])

    empty = [x[:0] for x in arrays]
    assert argmax(*empty).shape == (0, *z.shape[1:])
    assert argmax(*empty).dtype == z.dtype
    none, no_valid = topk(*empty)
    assert none.shape == (0, *best.shape[1:])
    assert no_valid.shape == (0, *valid.shape[1:])
    assert none.dtype == best.dtype == z.dtype


def check_prefix(topk, score, ks):
    """The scores for a smaller k are the first of those for a larger one; and none goes up along k."""
    last = None
    for k in sorted(ks, reverse=True):
        z, valid = topk(k)
        assert valid.all()
        values = score(z)
        assert (np.diff(values, axis=1) <= 1e-12 * np.abs(values).max()).all()
        if last is not None:
            np.testing.assert_allclose(values, last[:, :k], rtol=0, atol=1e-12 * np.abs(values).max())
        last = values


def distinct(z):
    """Whether no row of z [B, k, *event] has a structure twice."""
    flat = z.reshape(*z.shape[:2], -1)
    return all(len({row.tobytes() for row in rows}) == len(rows) for rows in flat)
