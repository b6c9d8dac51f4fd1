import importlib
import json
import math
import subprocess
import sys

import pytest
import torch

import structlat as sl
from tests.examples import tiny_data
from tests.examples.scripts import ROOT

METHODS = ["sfe", "sfe+", "nvil", "gumbel", "st-gumbel", "topk", "sparsemap", "sparsemap-budget"]
SPARSE = ["topk", "sparsemap", "sparsemap-budget"]
UNREPEATABLE = ("seconds", "command", "config", "history")


@pytest.fixture(scope="module")
def script(examples):
    return importlib.import_module("bit_vector_vae")


@pytest.fixture(scope="module")
def likelihood(examples):
    return importlib.import_module("vae_parts").log_likelihood


@pytest.fixture(scope="module")
def data_root(examples, tmp_path_factory):
    """Idx files of 100 and 20 images, laid out as torchvision does."""
    root = tmp_path_factory.mktemp("clothes")
    tiny_data.write(root / "FashionMNIST" / "raw", train=100, test=20)
    return root


@pytest.fixture
def settings(script, data_root, tmp_path):
    """Settings of a run of a few steps."""

    def make(**options):
        small = {"bits": 6, "epochs": 1, "batch_size": 16, "images": 64, "validation": 16, "test_images": 6}
        places = {"data_root": str(data_root), "out": str(tmp_path), "samples": 32, "progress": False}
        return script.BitSettings(**(small | places | options))

    return make


# ---- The likelihood of grey levels. ----------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["compiled", "chunked", "auto"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize(("size", "scale"), [((7, 11, 5, 256), 1.0), ((3, 6, 2, 9), 60.0), ((1, 1, 1, 1), 1.0)])
def test_the_logits_need_not_be_held(likelihood, implementation, dtype, size, scale):
    n, pixels, c, v = size
    generator = torch.Generator().manual_seed(1)
    wide = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((n, pixels, c), (v, c), (v,))]
    wide[0] *= scale
    levels = torch.randint(v, (n, pixels), generator=generator).to(dtype)
    weights = torch.rand(n, generator=generator, dtype=torch.float64)

    def both(tensors, implementation):
        leaves = [x.clone().requires_grad_() for x in tensors]
        out = likelihood(*leaves, levels, implementation=implementation)
        return out.detach(), torch.autograd.grad((out * weights.to(out)).sum(), leaves)

    expected, slopes = both(wide, "naive")
    got, found = both([x.float() for x in wide], implementation)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)
    for slope, exact in zip(found, slopes, strict=True):
        torch.testing.assert_close(slope.double(), exact, rtol=1e-4, atol=2e-5 * float(exact.abs().max() + 1))
    with torch.no_grad():
        again = likelihood(*(x.float() for x in wide), levels, implementation=implementation)
    assert torch.equal(again, got)


def test_the_likelihood_of_no_image_and_of_features_that_are_not_contiguous(likelihood):
    weight, bias = torch.randn(8, 5, requires_grad=True), torch.randn(8)
    levels = torch.randint(8, (4, 6))
    for implementation in ("compiled", "chunked"):
        none = likelihood(torch.zeros(0, 6, 5), weight, bias, levels[:0], implementation=implementation)
        assert none.shape == (0,)
    features = torch.randn(5, 6, 4).permute(2, 1, 0)
    expected = likelihood(features, weight, bias, levels, implementation="naive")
    torch.testing.assert_close(likelihood(features, weight, bias, levels), expected)


# ---- Importance sampling. --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space():
    """All 64 vectors of 6 bits; where each of them is in the list; scores of 40 images."""
    every = sl.BitVector(6).enumerate()
    scores = torch.randn(40, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return every, lambda z: (z[:, None] == every).all(-1).double().argmax(-1), scores


def supports(scores):
    """Sparse distributions over 6 bits with supports of several sizes."""
    bits = sl.BitVector(6)
    return [
        sl.sparsemap(bits, scores),
        sl.sparsemap(bits, 3 * scores, solver="active_set"),
        sl.topk_sparsemax(bits, scores, k=10),
        sl.sparsemap(sl.BudgetBitVector(6, 3), scores),
    ]


def test_sparse_evidence_is_exact_where_all_others_are_alike(script, space):
    every, place, scores = space
    generator = torch.Generator().manual_seed(3)
    for q in supports(scores):
        listed = (q.log_prob(every[:, None]) > -math.inf).T
        assert listed.sum(-1).tolist() == q.support_size.tolist()
        inside = torch.randn(40, 64, generator=generator, dtype=torch.float64)
        outside = torch.randn(40, 1, generator=generator, dtype=torch.float64)
        table = torch.where(listed, inside, outside)
        found = script.sparse_evidence(lambda z, i, table=table: table[i, place(z)], q, bits=6, samples=3)
        torch.testing.assert_close(found, table.logsumexp(-1), rtol=1e-12, atol=1e-12)


def test_sparse_evidence_is_unbiased_and_counts_nothing_twice(script, space):
    every, place, scores = space
    # the support has most of the mass, which is what counting it twice would make double
    for q in supports(scores):
        table = torch.where((q.log_prob(every[:, None]) > -math.inf).T, 4.0, 0.0) + torch.randn(40, 64).double()
        torch.manual_seed(4)
        found = script.sparse_evidence(lambda z, i, table=table: table[i, place(z)], q, bits=6, samples=4000)
        ratio = (found - table.logsumexp(-1)).exp()
        # a mean of 4,000 log-normal values of deviation 1 has a relative error of 2%: five times that
        assert float((ratio - 1).abs().max()) < 0.11
        assert abs(float(ratio.mean()) - 1) < 0.02


def test_what_is_off_the_support_is_uniform_there(script, space):
    every, place, scores = space
    torch.manual_seed(5)
    q = sl.sparsemap(sl.BitVector(6), scores[:3])
    z = script.off_support(q, bits=6, samples=30_000)
    for row in range(3):
        count = torch.bincount(place(z[:, row]), minlength=64).double()
        allowed = q.log_prob(every[:, None])[:, row] == -math.inf
        assert float(count[~allowed].sum()) == 0
        expected = 30_000 / int(allowed.sum())
        assert float((count[allowed] - expected).abs().max()) < 5 * math.sqrt(expected)


def test_a_support_that_is_everything_needs_no_samples(script):
    q = sl.sparsemap(sl.BitVector(1), torch.tensor([[0.3], [5.0]]).double())
    assert q.support_size.tolist() == [2, 1]
    table = torch.tensor([[0.1, 0.7], [2.0, -1.0]]).double()

    def joint(z, i):
        return table[i, z[:, 0].long()]

    found = script.sparse_evidence(joint, q, bits=1, samples=2)
    torch.testing.assert_close(found, table.logsumexp(-1))
    alone = sl.sparsemap(sl.BitVector(1), torch.tensor([[0.3]]).double())
    assert script.off_support(alone, bits=1, samples=2) is None
    torch.testing.assert_close(script.sparse_evidence(joint, alone, 1, 2), table[:1].logsumexp(-1))


def test_sampled_evidence(script, space):
    _, place, scores = space
    # where the joint is that of q but for a constant, every weight is the same
    constant = torch.randn(40).double()
    q = sl.Gibbs(sl.BitVector(6), scores)
    exact = script.sampled_evidence(lambda z, i: (z * scores[i]).sum(-1) + constant[i], q, samples=3)
    torch.testing.assert_close(exact, q.log_partition + constant)
    table = torch.randn(40, 64).double()
    torch.manual_seed(6)
    found = script.sampled_evidence(lambda z, i: table[i, place(z)], q, samples=4000)
    assert abs(float((found - table.logsumexp(-1)).exp().mean()) - 1) < 0.05


# ---- The model. ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SPARSE)
def test_negative_elbo_and_evidence_against_enumeration(script, settings, method):
    chosen = script.resolve(settings(estimator=method))
    torch.manual_seed(7)
    model = script.BitVectorVAE(chosen)
    images = torch.randint(256, (5, 784), dtype=torch.uint8)
    with torch.no_grad():
        q, joint = model.posterior(images), model.log_joint(images)
        every = sl.BitVector(6).enumerate()
        row = torch.arange(5).repeat_interleave(64)
        table = joint(every.repeat(5, 1), row).view(5, 64)
        p = q.log_prob(every[:, None].float()).T.exp().double()
        by_hand = (p * (torch.where(p > 0, p, 1).log() - table)).sum(-1)
        torch.testing.assert_close(model.negative_elbo(images, q), by_hand, rtol=1e-5, atol=1e-3)
        evidence = script.sparse_evidence(joint, q, 6, 2000)
    torch.testing.assert_close(evidence, table.logsumexp(-1), rtol=0, atol=0.5)
    assert (table.logsumexp(-1) >= -by_hand).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(script, settings, method):
    line = script.main(settings(estimator=method))
    assert line["experiment"] == "bit_vector_vae"
    assert (line["method"], line["bits"], line["seed"], line["preset"]) == (method, 6, 0, "quick")
    metrics = line["metrics"]
    assert 6 < metrics["negative_log_likelihood"] < metrics["negative_elbo"] + 0.05 < 8.3
    assert ("support" in metrics) == (method in SPARSE)
    least, most = {"sfe+": (2, 2), "topk": (1, 10), "sparsemap": (1, 7), "sparsemap-budget": (1, 7)}.get(method, (1, 1))
    assert least <= line["calls"] <= most
    assert line["data"]["sizes"] == {"images": 64, "validation": 16, "test_images": 6}
    assert line["config"]["samples"] == 32


@pytest.mark.parametrize("options", [{"solver": "active_set"}, {"decomposition": "flips"}])
def test_sparsemap_in_other_ways(script, settings, options):
    model = script.BitVectorVAE(script.resolve(settings(**options)))
    (chosen,) = options.values()
    assert chosen in repr(model.estimator)
    x = torch.randint(256, (4, 784), dtype=torch.uint8)
    plain = script.BitVectorVAE(script.resolve(settings()))
    plain.load_state_dict(model.state_dict())
    # another p, with the same marginals
    torch.testing.assert_close(model.posterior(x).mean, plain.posterior(x).mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["sparsemap", "gumbel", "nvil", "sfe"])
def test_going_on_gives_the_same_numbers(script, settings, tmp_path, method):
    whole = script.main(settings(estimator=method, epochs=2, out=str(tmp_path / "whole")))
    parts = {"estimator": method, "out": str(tmp_path / "parts")}
    script.main(settings(**parts, epochs=1))
    resumed = script.main(settings(**parts, epochs=2, resume=True))
    for name in ("metrics", "calls", "best_epoch", "calls_last_epoch"):
        assert resumed[name] == whole[name], name
    for name in ("train/loss", "validation/negative_elbo", "epoch", "step"):
        assert resumed["history"][name] == whole["history"][name], name


def test_the_command_line_writes_a_line(data_root, tmp_path):
    options = [
        "--bits",
        4,
        "--epochs",
        1,
        "--batch_size",
        16,
        "--images",
        32,
        "--validation",
        8,
        "--test_images",
        4,
        "--samples",
        8,
    ]
    places = ["--data-root", data_root, "--out", tmp_path, "--results", tmp_path / "here" / "lines.jsonl"]
    command = [
        sys.executable,
        "-W",
        "error",
        ROOT / "examples" / "bit_vector_vae.py",
        "--estimator",
        "sparsemap",
        *options,
        *places,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(text) for text in (tmp_path / "here" / "lines.jsonl").read_text().splitlines()]
    assert line["config"]["bits"] == 4
    assert line["data"]["dataset"] == "fashion-mnist"
    assert "negative_log_likelihood" in done.stdout


def test_two_processes_train_as_one_does(script, settings, tmp_path):
    alone = script.main(settings(test_images=8))
    given = {**settings(test_images=8).config(), "data_root": settings().data_root, "out": tmp_path, "progress": False}
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    command = [sys.executable, ROOT / "examples" / "bit_vector_vae.py", *options, "--devices=2", "--strategy=ddp"]
    results = f"--results={tmp_path / 'together.jsonl'}"
    done = subprocess.run([*map(str, command), results], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (together,) = [json.loads(text) for text in (tmp_path / "together.jsonl").read_text().splitlines()]
    for name in ("train/loss", "train/calls", "validation/negative_elbo"):
        assert together["history"][name] == pytest.approx(alone["history"][name], rel=1e-4), name
    assert together["metrics"]["negative_elbo"] == pytest.approx(alone["metrics"]["negative_elbo"], rel=1e-4)


def test_the_ways_to_the_likelihood_are_timed(examples, tmp_path):
    compare = importlib.import_module("vae_parts").compare
    compare(rows=1, seconds=0.05, out=str(tmp_path / "here" / "times.json"))
    line = json.loads((tmp_path / "here" / "times.json").read_text())
    assert list(line["milliseconds"]) == ["naive", "chunked", "compiled"]
    for quartiles in line["milliseconds"].values():
        assert 0 < quartiles[0] <= quartiles[1] <= quartiles[2]


@pytest.mark.parametrize("options", [{"solver": "active_set"}, {"decomposition": "flips"}, {"k": 3}])
def test_options_that_an_estimator_does_not_have(script, settings, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}: got .*; nvil has no such option"):
        script.make_estimator(script.resolve(settings(estimator="nvil", **options)))
