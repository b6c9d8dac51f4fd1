"""A VAE of handwritten digits whose class is a latent variable, observed for one image in ten (table 1 of the paper).

    python examples/semi_supervised_vae.py --estimator sparsemax

Correia et al. (2020), section 5.1. An image x comes from its class y, one of ten, and from 8 Gaussian numbers h. Three
networks: q(y|x), the classifier, which is what the accuracy is of; q(h|x,y); and p(x|h,y). For labelled images y is
known. For the others the negative ELBO is an expectation over q(y|x), and the estimator, chosen by its name, is how it
gets its gradient: ``softmax`` asks for all ten classes, ``sparsemax`` for those that have probability, the others
sample. The decoder runs once a step, on the pairs (image, class) of labelled images and those that the estimator wants.

All estimators of a seed start from the same networks, trained on the labelled images alone. They are kept in the cache
of the images, under a hash of all that decides them. Images are binarised anew whenever they are looked at.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from batches import Batches, Loaders, loader, mixed
from data import CLASSES, SIDE, cache_folder, load_images, split
from experiment import Model, baseline_network, interruptible, on_cpu, quiet, run
from filelock import FileLock
from files import write_whole
from lightning.pytorch.callbacks import TQDMProgressBar
from options import Presets, Settings, command_line, resolve
from results import versions
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import structlat as sl
import structlat.estimators

PIXELS = SIDE * SIDE
HIDDEN = 8  # numbers in h
LABEL = sl.Categorical(CLASSES)
WEIGHT_DECAY = 1e-5
WARM_UP_RATE = 1e-3
DESCRIPTION = "Train a semi-supervised VAE on MNIST with one of the estimators of structlat."

PAPER = {"epochs": 200, "batch_size": 64, "entropy": 1.0, "warm_up_epochs": 100}
PAPER |= {"labelled": 5_000, "unlabelled": 45_000, "validation": 10_000, "learning_rate": 1e-3}
SLOWER = {"sfe": {"learning_rate": 1e-4}, "sfe+": {"learning_rate": 1e-4}, "sparsemax": {"learning_rate": 5e-4}}
PRESETS = {"paper": {"*": PAPER, **SLOWER}, "quick": {"*": PAPER | {"epochs": 4}, **SLOWER}}


@dataclasses.dataclass(kw_only=True)
class VAESettings(Settings):
    """Options of the semi-supervised VAE.

    Parameters
    ----------
    labelled
        training images whose class is given
    unlabelled
        the other training images; a pass over them is an epoch, and each step has ``batch_size`` of either kind
    validation
        images on which the best epoch is chosen
    warm_up_epochs
        passes over the labelled images before all else, the same for all estimators
    """

    labelled: int | None = None
    unlabelled: int | None = None
    validation: int | None = None
    warm_up_epochs: int | None = None

    def presets(self) -> Presets:
        """The same for all."""
        return PRESETS


# ---- Networks. -------------------------------------------------------------------------------------------------------


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers of these sizes, with rectified units between."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Networks(nn.Module):
    """The three networks. x [N, 784] are images of 0. and 1., y [N, 10] one-hot classes, or points between them."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = perceptron(PIXELS, 256, 256, 256, CLASSES)
        self.encoder = perceptron(PIXELS + CLASSES, 128, 128, 2 * HIDDEN)
        self.decoder = perceptron(HIDDEN + CLASSES, 128, 128, PIXELS)

    def negative_elbo(self, x: Tensor, y: Tensor) -> Tensor:
        """-log p(x|h,y) + KL(q(h|x,y) || N(0, 1)) - log p(y), [N] in nats, for one draw of h; p(y) is uniform."""
        mean, log_scale = self.encoder(torch.cat([x, y], -1)).chunk(2, -1)
        h = mean + log_scale.exp() * torch.randn_like(mean)
        logits = self.decoder(torch.cat([h, y], -1))
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        divergence = (mean.square() + (2 * log_scale).exp() - 1).sum(-1) / 2 - log_scale.sum(-1)
        elbo: Tensor = reconstruction + divergence + math.log(CLASSES)
        return elbo


def binarised(images: Tensor) -> Tensor:
    """Images [N, 784] of 256 grey levels as 0. and 1., a white pixel for each with the probability of its grey."""
    return torch.bernoulli(images / 255)


# ---- The warm start. -------------------------------------------------------------------------------------------------


class WarmUp(L.LightningModule):
    """The networks learn from labelled images alone."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.networks = networks

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Negative ELBO and cross-entropy."""
        images, labels = batch
        x = binarised(images)
        classified = F.cross_entropy(self.networks.classifier(x), labels)
        return classified + self.networks.negative_elbo(x, LABEL.vertex(labels)).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as in the training after it."""
        return torch.optim.Adam(self.parameters(), lr=WARM_UP_RATE, weight_decay=WEIGHT_DECAY, fused=True)


def warm_start(settings: VAESettings, images: Tensor, labels: Tensor, provenance: dict[str, Any]) -> Networks:
    """Networks trained on the labelled images, from the cache if they are there; one process at a time trains them."""
    assert settings.batch_size is not None
    deciding: dict[str, Any] = {
        "form": 2,  # to be raised when the code above changes what comes out
        "data": provenance["md5"],
        "sizes": [settings.labelled, settings.unlabelled, settings.validation],
        "numbers": [settings.seed, settings.batch_size, settings.warm_up_epochs, WARM_UP_RATE, WEIGHT_DECAY],
        "versions": versions()["torch"],
    }
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]
    folder = (Path(settings.cache) if settings.cache else cache_folder()) / "semi_supervised_vae"
    path = folder / f"{digest}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    quiet()
    torch.manual_seed(mixed(settings.seed, 0))
    networks = Networks()
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            torch.manual_seed(mixed(settings.seed, 1))
            progress = TQDMProgressBar(refresh_rate=20)
            trainer = L.Trainer(
                accelerator="cpu",
                devices=1,
                max_epochs=settings.warm_up_epochs,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=settings.progress,
                callbacks=[progress] if settings.progress else [],
                use_distributed_sampler=False,
            )
            batches = Batches(len(images), min(settings.batch_size, len(images)), settings.seed)
            with interruptible(trainer):
                trainer.fit(WarmUp(networks), loader(TensorDataset(images, labels), batches))
            write_whole(path, lambda beside: torch.save(networks.state_dict(), beside))
        networks.load_state_dict(torch.load(path, weights_only=True))
    return networks


# ---- The model. ------------------------------------------------------------------------------------------------------


class SemiSupervisedVAE(Model):
    """Networks and estimator. A batch in training is half labelled images, then half others."""

    def __init__(self, networks: Networks, settings: VAESettings) -> None:
        super().__init__(settings, WEIGHT_DECAY)
        assert settings.labelled is not None
        assert settings.unlabelled is not None
        assert settings.entropy is not None
        self.networks = copy.deepcopy(networks)
        # all images count the same, and a step has as many of the few labelled as of the others
        self.unlabelled_weight = settings.unlabelled / settings.labelled
        self.entropy = settings.entropy
        options: dict[str, Any] = {"nvil": {"network": baseline_network(PIXELS)}}.get(settings.estimator, {})
        self.estimator = sl.estimators.get(settings.estimator)(LABEL, vertices=True, **options)
        self.sparse = settings.estimator == "sparsemax"
        self.fenchel_young = sl.losses.SparseMAPLoss(LABEL)

    def classification_loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, or for sparsemax the loss that belongs to it, [N]."""
        if self.sparse:
            loss: Tensor = self.fenchel_young(scores, target=labels)
            return loss
        return F.cross_entropy(scores, labels, reduction="none")

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Losses of labelled and of other images."""
        images, labels = batch
        x = binarised(images)
        half = len(x) // 2
        known, x_known, x_other = labels[:half], x[:half], x[half:]
        scores = self.networks.classifier(x)
        observed: list[Tensor] = []

        def negative_elbo(y: Tensor, i: Tensor) -> Tensor:
            """Of the pairs that the estimator wants; the labelled ones go through the networks with them."""
            pairs_x = torch.cat([x_known, x_other[i]])
            elbo = self.networks.negative_elbo(pairs_x, torch.cat([LABEL.vertex(known).to(y.dtype), y]))
            observed.append(elbo[:half])
            return elbo[half:]

        out = self.estimator(negative_elbo, scores[half:], context=x_other)
        supervised = observed[0] + self.classification_loss(scores[:half], known)
        unsupervised = out.surrogate - self.entropy * out.entropy
        loss: Tensor = supervised.mean() + self.unlabelled_weight * unsupervised.mean()
        self.log_training(loss, out.calls.double().mean())
        return loss

    def posterior(self, scores: Tensor) -> sl.SparseDistribution:
        """q(y|x): sparsemax, or softmax, which the sampling estimators draw from."""
        return sl.marginalize(LABEL, scores, normalizer="sparsemax" if self.sparse else "softmax")

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """How many classes are right."""
        images, labels = batch
        right = self.networks.classifier(binarised(images)).argmax(-1) == labels
        self.log_evaluation("validation", {"accuracy": right.double().mean()}, len(images))

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """The same, the negative ELBO in nats with its sum over q(y|x), and how many classes have probability."""
        images, labels = batch
        x = binarised(images)
        scores = self.networks.classifier(x)
        q = self.posterior(scores)
        elbo = q.expect(lambda y, i: self.networks.negative_elbo(x[i], y), vertices=True) - q.entropy()
        metrics = {
            "accuracy": (scores.argmax(-1) == labels).double().mean(),
            "negative_elbo": elbo.mean(),
            "support": q.support_size.double().mean(),
        }
        self.log_evaluation("test", metrics, len(images))


# ---- Data and the run. -----------------------------------------------------------------------------------------------


class Halves(Batches):
    """Batches of ``size`` labelled indices, the first ``labelled``, in turn, and then of ``size`` others, each once."""

    def __init__(self, labelled: int, unlabelled: int, size: int, seed: int) -> None:
        super().__init__(unlabelled, size, seed)
        self.labelled = labelled

    def draw(self, generator: torch.Generator | None) -> Iterator[Tensor]:
        """The labelled images are gone through, each time in a new order, until the others are over."""
        count = len(self) * self.size
        rounds = math.ceil(count / self.labelled)
        known = torch.cat([torch.randperm(self.labelled, generator=generator) for _ in range(rounds)])[:count]
        others = self.labelled + torch.randperm(self.count, generator=generator)[:count]
        for halves in zip(known.split(self.size), others.split(self.size), strict=True):
            yield torch.cat(halves)


def main(settings: VAESettings) -> dict[str, Any]:
    """Train and test one estimator. Returns the line of results."""
    settings = resolve(settings)
    assert settings.labelled is not None
    assert settings.unlabelled is not None
    assert settings.validation is not None
    assert settings.batch_size is not None
    on_cpu(settings)
    images = load_images("mnist", settings.data_root, settings.cache)
    sizes = (settings.labelled, settings.unlabelled, settings.validation)
    labelled, unlabelled, validation = split(len(images.train), sizes, settings.seed)
    x, labels = images.train.flatten(1), images.train_labels
    networks = warm_start(settings, x[labelled], labels[labelled], images.provenance)
    torch.manual_seed(mixed(settings.seed, 2))
    with torch.no_grad():
        right = networks.classifier(binarised(images.test.flatten(1))).argmax(-1) == images.test_labels
    model = SemiSupervisedVAE(networks, settings)
    train = torch.cat([labelled, unlabelled])
    loaders = Loaders(
        loader(
            TensorDataset(x[train], labels[train]),
            Halves(len(labelled), len(unlabelled), settings.batch_size, settings.seed),
        ),
        loader(TensorDataset(x[validation], labels[validation]), Batches(len(validation), 1000)),
        loader(TensorDataset(images.test.flatten(1), images.test_labels), Batches(len(images.test), 1000)),
    )
    return run(
        model,
        loaders,
        settings,
        experiment="semi_supervised_vae",
        monitor="accuracy",
        mode="max",
        data=images.provenance | {"sizes": dict(zip(("labelled", "unlabelled", "validation"), sizes, strict=True))},
        warm_start={"accuracy": float(right.double().mean())},
    )


if __name__ == "__main__":
    command_line(main, VAESettings, DESCRIPTION)
