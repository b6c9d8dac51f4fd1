import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from tests.examples import tiny_data
from tests.examples.scripts import ROOT, run_on_two

METHODS = ["sfe", "sfe+", "nvil", "gumbel", "st-gumbel", "sum-and-sample", "softmax", "sparsemax"]
SIZES = {"labelled": 24, "unlabelled": 64, "validation": 12, "warm_up_epochs": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def script(examples):
    return importlib.import_module("semi_supervised_vae")


@pytest.fixture(scope="module")
def data_root(examples, tmp_path_factory):
    """Idx files of 100 and 20 images, laid out as torchvision does."""
    root = tmp_path_factory.mktemp("digits")
    tiny_data.write(root / "MNIST" / "raw", train=100, test=20)
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def settings(script, data_root, cache, tmp_path):
    """Settings of a run of a few steps."""

    def make(**options):
        places = {"data_root": str(data_root), "out": str(tmp_path), "cache": str(cache), "progress": False}
        return script.VAESettings(**(SIZES | {"epochs": 1} | places | options))

    return make


@pytest.fixture
def model(script, settings):
    def make(method):
        torch.manual_seed(0)
        chosen = script.resolve(settings(estimator=method))
        made = script.SemiSupervisedVAE(script.Networks(), chosen)
        made.log_training = lambda *_: None
        return made

    return make


def test_negative_elbo(script):
    torch.manual_seed(1)
    networks = script.Networks()
    x, y = torch.rand(5, 784).bernoulli(), script.LABEL.vertex(torch.arange(5))
    torch.manual_seed(2)
    found = networks.negative_elbo(x, y)
    torch.manual_seed(2)
    mean, log_scale = networks.encoder(torch.cat([x, y], -1)).chunk(2, -1)
    q = Normal(mean, log_scale.exp())
    logits = networks.decoder(torch.cat([q.rsample(), y], -1))
    by_hand = -Bernoulli(logits=logits).log_prob(x).sum(-1) + kl_divergence(q, Normal(0, 1)).sum(-1) + np.log(10)
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize("method", ["softmax", "sparsemax"])
def test_one_call_of_the_decoder_is_as_good_as_ten(script, model, method):
    vae = model(method)
    with torch.no_grad():
        for half, log_scale in ((slice(8), None), (slice(8, 16), -30.0)):  # h without noise: the same in every call
            if log_scale is not None:
                vae.networks.encoder[-1].weight[half] = 0
                vae.networks.encoder[-1].bias[half] = log_scale
        vae.networks.classifier[-1].weight *= 20  # so that sparsemax leaves some classes out
    images, labels = torch.randint(2, (16, 784)) * 255, torch.arange(16) % 10
    x = images / 255
    seen = []
    vae.networks.decoder.register_forward_hook(lambda *call: seen.append(len(call[2])))
    loss = vae.training_step((images, labels), 0)
    gradient = torch.autograd.grad(loss, list(vae.networks.parameters()))
    scores = vae.networks.classifier(x)
    q = vae.posterior(scores[8:])
    p = torch.zeros(8, 10).scatter_add(1, q.structures, q.probs)
    assert seen == [8 + int((p > 0).sum())]
    each = [vae.networks.negative_elbo(x[8:], script.LABEL.vertex(torch.full((8,), label))) for label in range(10)]
    safe = torch.where(p > 0, p, 1)
    unsupervised = (p * torch.stack(each, 1) + safe * safe.log()).sum(-1)
    known = script.LABEL.vertex(labels[:8])
    supervised = vae.networks.negative_elbo(x[:8], known) + vae.classification_loss(scores[:8], labels[:8])
    by_hand = supervised.mean() + 64 / 24 * unsupervised.mean()
    torch.testing.assert_close(loss, by_hand)
    for found, expected in zip(gradient, torch.autograd.grad(by_hand, list(vae.networks.parameters())), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(1 + expected.abs().max()))


def test_the_loss_of_sparsemax_is_its_own(model):
    scores, labels = torch.randn(4, 10), torch.arange(4)
    sparse, dense = (model(method).classification_loss(scores, labels) for method in ("sparsemax", "softmax"))
    torch.testing.assert_close(dense, torch.nn.functional.cross_entropy(scores, labels, reduction="none"))
    assert not torch.allclose(sparse, dense)
    margin = scores.scatter(1, labels[:, None], float(scores.amax()) + 1)
    assert model("sparsemax").classification_loss(margin, labels).abs().max() < 1e-6


def test_a_batch_is_half_labelled_images_and_half_others(script):
    halves = script.Halves(labelled=10, unlabelled=33, size=8, seed=3)
    batches = list(halves)
    assert len(batches) == len(halves) == 4
    known, others = (torch.cat([batch[half] for batch in batches]) for half in (slice(8), slice(8, None)))
    assert known.max() < 10
    counts = torch.bincount(known, minlength=10)
    assert set(counts.tolist()) <= {3, 4}
    assert others.min() >= 10
    assert len(others.unique()) == 32
    halves.set_epoch(1)
    assert not torch.equal(torch.cat(list(halves)), torch.cat(batches))
    halves.set_epoch(0)
    assert torch.equal(torch.cat(list(halves)), torch.cat(batches))


def test_two_processes_share_each_half(script, monkeypatch):
    batches = list(script.Halves(labelled=10, unlabelled=33, size=8, seed=3))
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(importlib.import_module("batches"), "process", lambda rank=rank: (rank, 2))
        shares.append(list(script.Halves(labelled=10, unlabelled=33, size=8, seed=3)))
    for batch, *parts in zip(batches, *shares, strict=True):
        for part in parts:
            assert (part[:4] < 10).all()
            assert (part[4:] >= 10).all()
        assert sorted(torch.cat(parts).tolist()) == sorted(batch.tolist())


def test_images_are_binarised_anew(script):
    torch.manual_seed(4)
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(20_000, 3)
    x = script.binarised(images)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(x.mean(0), torch.tensor([0.0, 0.2, 1.0]), atol=0.015, rtol=0)
    assert not torch.equal(x, script.binarised(images))


def test_a_warm_start_is_kept_and_shared(script, settings, tmp_path, monkeypatch):
    x, labels = torch.randint(256, (24, 784), dtype=torch.uint8), torch.arange(24) % 10
    chosen = script.resolve(settings(cache=str(tmp_path), seed=5))

    def start(**changes):
        networks = script.warm_start(script.dataclasses.replace(chosen, **changes), x, labels, {"md5": "none"})
        return torch.cat([p.detach().flatten() for p in networks.parameters()])

    def files():
        return sorted(path.name for path in (tmp_path / "semi_supervised_vae").glob("*.pt"))

    first = start()
    assert len(files()) == 1
    other = start(seed=6)
    assert len(files()) == 2
    assert not torch.equal(first, other)
    monkeypatch.setattr(script, "WarmUp", None)  # nothing is trained any more
    assert torch.equal(start(estimator="softmax"), first)
    monkeypatch.undo()
    for path in (tmp_path / "semi_supervised_vae").iterdir():
        assert path.suffix in (".pt", ".lock")
        path.unlink()
    assert torch.equal(start(), first)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(script, settings, method):
    line = script.main(settings(estimator=method))
    assert line["experiment"] == "semi_supervised_vae"
    assert (line["method"], line["seed"], line["preset"]) == (method, 0, "quick")
    assert 0 <= line["metrics"]["accuracy"] <= 1
    assert line["metrics"]["negative_elbo"] > 0
    low, high = {
        "softmax": (10, 10), "sparsemax": (1, 9.9), "sfe+": (2, 2), "sum-and-sample": (1, 2)
    }.get(method, (1, 1))  # fmt: skip
    assert low <= line["calls"] <= high
    assert line["metrics"]["support"] <= 10
    assert line["data"]["sizes"] == {"labelled": 24, "unlabelled": 64, "validation": 12}


@pytest.mark.parametrize("method", ["sparsemax", "gumbel", "nvil", "sfe", "sum-and-sample"])
def test_going_on_gives_the_same_numbers(script, settings, tmp_path, method):
    whole = script.main(settings(estimator=method, epochs=2, out=str(tmp_path / "whole")))
    parts = {"estimator": method, "out": str(tmp_path / "parts")}
    script.main(settings(**parts, epochs=1))
    resumed = script.main(settings(**parts, epochs=2, resume=True))
    for name in ("metrics", "calls", "best_epoch", "calls_last_epoch"):
        assert resumed[name] == whole[name], name
    for name in ("train/loss", "validation/accuracy", "epoch", "step"):
        assert resumed["history"][name] == whole["history"][name], name


def test_the_command_line_writes_a_line(data_root, cache, tmp_path):
    options = [word for name, value in (SIZES | {"epochs": 1}).items() for word in (f"--{name}", value)]
    places = ["--data-root", data_root, "--cache", cache, "--out", tmp_path]
    command = [
        sys.executable,
        "-W",
        "error",
        ROOT / "examples" / "semi_supervised_vae.py",
        "--estimator",
        "sparsemax",
        *options,
        *places,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(text) for text in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert line["config"]["labelled"] == 24
    assert line["data"]["dataset"] == "mnist"
    assert "accuracy" in done.stdout


def test_two_processes_of_torchrun(data_root, tmp_path):
    """The warm start is of one process, before either trains; one of them writes the line."""
    sizes = SIZES | {"epochs": 2, "data_root": data_root, "out": tmp_path, "cache": tmp_path / "cache"}
    options = [f"--{name}={value}" for name, value in sizes.items()]
    shown = run_on_two("semi_supervised_vae.py", *options, "--progress=false")
    (line,) = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert json.loads(shown[shown.index("{") :])["metrics"] == line["metrics"]
    assert line["machine"]["devices"] == 2
    assert line["history"]["step"] == [8, 16]  # 64 unlabelled images, 8 a step of both
    assert 1 <= line["calls"] <= 10
    assert len(list((tmp_path / "cache").rglob("*.pt"))) == 1
