import pytest
import torch

import structlat as sl

X = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
LAYERS = (
    (sl.SparseMAP, {"gamma": 0.7}, sl.sparsemap),
    (sl.TopKSparsemax, {"k": 4}, sl.topk_sparsemax),
    (sl.Marginalize, {"normalizer": "entmax15"}, sl.marginalize),
)


@pytest.mark.parametrize(("layer", "settings", "function"), LAYERS)
def test_a_layer_is_its_function(layer, settings, function):
    bits = sl.BitVector(5)
    want = function(bits, X, **settings)
    for got in (layer(bits, **settings)(X), layer(**settings)(bits, X), layer(sl.BitVector(9), **settings)(bits, X)):
        torch.testing.assert_close(got.mean, want.mean)
        torch.testing.assert_close(got.probs, want.probs)
    name, value = next(iter(settings.items()))
    assert "BitVector(5" in repr(layer(bits, **settings))
    assert f"{name}={value!r}" in repr(layer(bits, **settings))


@pytest.mark.parametrize("layer", [x[0] for x in LAYERS])
def test_what_is_missing_is_said(layer):
    with pytest.raises(sl.ArgumentError, match="structure: none was given"):
        layer()(X)
    with pytest.raises(sl.ArgumentError, match="scores: none were given"):
        layer()(sl.BitVector(5))
    with pytest.raises(sl.ArgumentError, match="structure: got Tensor"):
        layer(X)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: sl.SparseMAP(solver="newton"), "solver: got 'newton'"),
        (lambda: sl.SparseMAP(max_iter=0), "max_iter: got 0"),
        (lambda: sl.TopKSparsemax(k=0), "k: got 0"),
        (lambda: sl.Marginalize(normalizer="soft"), "normalizer: got 'soft'"),
    ],
)
def test_settings_are_checked_at_construction(make, text):
    with pytest.raises(sl.ArgumentError, match=text):
        make()


def test_gamma_is_learned():
    gamma = torch.nn.Parameter(torch.tensor(0.8))
    layer = sl.SparseMAP(sl.BitVector(5), gamma=gamma)
    assert list(layer.parameters()) == [gamma]
    layer(X).mean.square().sum().backward()
    assert gamma.grad is not None
    assert float(gamma.grad.abs()) > 0
    assert "gamma" in layer.state_dict()
    assert "gamma" in sl.SparseMAP(gamma=torch.tensor(2.0)).state_dict()


@pytest.mark.parametrize("gamma", [-1.0, float("nan"), [1.0, 2.0]])
def test_gamma_is_checked_at_construction(gamma):
    with pytest.raises(sl.ArgumentError, match="gamma: got"):
        sl.SparseMAP(sl.BitVector(2), gamma=gamma)
