"""A VAE of pieces of clothing whose latent variable is a vector of 32 or 128 bits (table 3 of the paper).

    python examples/bit_vector_vae.py --estimator sparsemap --bits 32

Correia et al. (2020), section 5.3. The inference network gives each image x a score a bit, and the scores a
distribution q(z|x) over bit-vectors z; the generator gives each pixel a categorical over its 256 grey levels. The
prior is uniform over all 2^D bit-vectors, for a budget too. The estimator, chosen by its name, is how the expectation
over q in

    negative ELBO = E[-log p(x|z)] - H(q) + D log 2

gets its gradient. The negative log-likelihood is estimated by importance sampling: :func:`sampled_evidence` where q
gives every z some probability, :func:`sparse_evidence` where it has a support.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from batches import Batches, Loaders, loader, mixed
from data import SIDE, load_images, split
from experiment import Model, baseline_network, on_cpu, run
from options import Presets, Settings, command_line, resolve
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from vae_parts import log_likelihood

import structlat as sl
import structlat.estimators

PIXELS = SIDE * SIDE
LEVELS = 256
PARTS = 2048  # structures that the generator sees at once in an evaluation
DESCRIPTION = "Train a bit-vector VAE on Fashion-MNIST with one of the estimators of structlat."
LogJoint = Callable[[Tensor, Tensor], Tensor]

PAPER = {"epochs": 100, "batch_size": 64, "learning_rate": 1e-3, "entropy": 1.0, "rate": 1e-4, "images": 55_000}
PAPER |= {"validation": 5_000, "test_images": 10_000, "samples": 1024}
QUICK = PAPER | {"epochs": 5, "images": 10_000, "validation": 500, "test_images": 256}
# what differs from it in the paper, by the number of bits: it has these two
DIFFERENT: dict[int, dict[str, dict[str, Any]]] = {
    32: {
        "gumbel": {"rate": 1e-5},
        "st-gumbel": {"rate": 1e-5},
        "topk": {"learning_rate": 2e-3},
        "sparsemap": {"learning_rate": 2e-3},
        "sparsemap-budget": {"learning_rate": 2e-3},
    },
    128: {
        "nvil": {"learning_rate": 5e-4},
        "sparsemap": {"learning_rate": 2e-3, "batch_size": 16},
        "sparsemap-budget": {"learning_rate": 2e-3, "batch_size": 16},
    },
}

# whose options these are, and their defaults
OWNERS: dict[str, tuple[tuple[str, ...], Any]] = {
    "solver": (("sparsemap", "sparsemap-budget"), "auto"),
    "decomposition": (("sparsemap",), "levels"),
    "k": (("topk",), 10),
}


@dataclasses.dataclass(kw_only=True)
class BitSettings(Settings):
    """Options of the bit-vector VAE.

    Parameters
    ----------
    bits
        how many the latent variable has; of budgets, at most half of them are on
    solver
        of SparseMAP: auto, which is a closed form, or an iterative one such as active_set
    decomposition
        which of the optimal p the closed form of SparseMAP gives for bits: levels or flips
    k
        structures that topk chooses from
    rate
        at which the Gumbel-Softmax cools, a step
    images
        of training
    validation
        images on which the best epoch is chosen
    test_images
        the first so many of the test images, of which the numbers are
    samples
        of importance sampling, an image
    """

    estimator: str = "sparsemap"
    bits: int = 32
    solver: str = "auto"
    decomposition: str = "levels"
    k: int = 10
    rate: float | None = None
    images: int | None = None
    validation: int | None = None
    test_images: int | None = None
    samples: int | None = None

    def presets(self) -> Presets:
        """They depend on the number of bits."""
        different = DIFFERENT.get(self.bits, {})
        return {"paper": {"*": PAPER, **different}, "quick": {"*": QUICK, **different}}


# ---- The model. ------------------------------------------------------------------------------------------------------


class Generator(nn.Module):
    """Bits z [N, D], or points between them, to a categorical over the grey levels of each pixel."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.pixels = nn.Sequential(nn.Linear(bits, 128), nn.ReLU(), nn.Linear(128, PIXELS * 5))
        self.levels = nn.Linear(5, LEVELS)  # shared by all pixels

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """Log-probability of images x [N, 784] of whole grey levels, [N]."""
        features = self.pixels(z).unflatten(-1, (PIXELS, 5))
        return log_likelihood(features, self.levels.weight, self.levels.bias, x)


def make_estimator(settings: BitSettings) -> sl.estimators.Estimator:
    """The estimator of that name over bit-vectors, with its options."""
    for name, (owners, default) in OWNERS.items():
        if settings.estimator not in owners and getattr(settings, name) != default:
            raise ValueError(f"{name}: got {getattr(settings, name)!r}; {settings.estimator} has no such option")
    options: dict[str, dict[str, Any]] = {
        "nvil": {"network": baseline_network(PIXELS)},
        "topk": {"k": settings.k},
        "sparsemap": {"solver": settings.solver},
        "sparsemap-budget": {"solver": settings.solver},
        "gumbel": {"rate": settings.rate},
        "st-gumbel": {"rate": settings.rate},
    }
    structure = sl.BitVector(settings.bits, symmetric=True, decomposition=settings.decomposition)
    made: sl.estimators.Estimator = sl.estimators.get(settings.estimator)(
        structure, **options.get(settings.estimator, {})
    )
    return made


class BitVectorVAE(Model):
    """Images [B, 784] of grey levels 0..255, their scores [B, D], q(z|x), and the negative ELBO."""

    def __init__(self, settings: BitSettings) -> None:
        super().__init__(settings)
        assert settings.entropy is not None
        assert settings.samples is not None
        self.entropy, self.samples = settings.entropy, settings.samples
        self.bits = settings.bits
        self.inference = nn.Sequential(nn.Linear(PIXELS, 128), nn.ReLU(), nn.Linear(128, settings.bits))
        self.generator = Generator(settings.bits)
        self.estimator = make_estimator(settings)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The negative ELBO in bits a pixel, or what has its gradient."""
        (images,) = batch
        x = images / (LEVELS - 1)
        out = self.estimator(lambda z, i: -self.generator.log_prob(z, images[i]), self.inference(x), context=x)
        nats: Tensor = (out.surrogate - self.entropy * out.entropy).mean() + self.bits * math.log(2)
        self.log_training(bits_per_pixel(nats), out.calls.double().mean())
        return nats

    def posterior(self, images: Tensor) -> sl.SparseDistribution | sl.Gibbs:
        """q(z|x): sparse where the estimator is exact, else what it samples; for Gumbel-Softmax, what it relaxes."""
        scores = self.inference(images / (LEVELS - 1))
        if isinstance(self.estimator, sl.estimators.Exact):
            q: sl.SparseDistribution = self.estimator.layer(scores)
            return q
        return sl.Gibbs(self.estimator.structure, scores)

    def log_joint(self, images: Tensor) -> LogJoint:
        """The logarithm of p(z) p(x|z), of z and the row of x, in float64; a part of the rows at a time."""

        def joint(z: Tensor, i: Tensor) -> Tensor:
            parts = zip(z.float().split(PARTS), i.split(PARTS), strict=True)
            logs = [self.generator.log_prob(z_part, images[i_part]) for z_part, i_part in parts]
            return torch.cat(logs).double() - self.bits * math.log(2)

        return joint

    def negative_elbo(self, images: Tensor, q: sl.SparseDistribution | sl.Gibbs) -> Tensor:
        """In nats an image, [B]: exact, or for a q that has no support from one sample of it."""
        joint = self.log_joint(images)
        if isinstance(q, sl.SparseDistribution):
            return q.expect(lambda z, i: -joint(z, i)) - q.entropy()
        return -joint(q.sample(), torch.arange(len(images), device=images.device)) - q.entropy()

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """The negative ELBO."""
        (images,) = batch
        elbo = self.negative_elbo(images, self.posterior(images)).mean()
        self.log_evaluation("validation", {"negative_elbo": bits_per_pixel(elbo)}, len(images))

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Negative ELBO and negative log-likelihood in bits a pixel, the entropy of q in nats, the support's size."""
        (images,) = batch
        q, joint = self.posterior(images), self.log_joint(images)
        metrics = {
            "negative_elbo": bits_per_pixel(self.negative_elbo(images, q).mean()),
            "entropy": q.entropy().mean(),
        }
        if isinstance(q, sl.SparseDistribution):
            evidence = sparse_evidence(joint, q, self.bits, self.samples)
            metrics["support"] = q.support_size.double().mean()
        else:
            evidence = sampled_evidence(joint, q, self.samples)
        metrics["negative_log_likelihood"] = bits_per_pixel(-evidence.mean())
        self.log_evaluation("test", metrics, len(images))


def bits_per_pixel(nats: Tensor) -> Tensor:
    """From nats an image to bits a pixel."""
    return nats / (PIXELS * math.log(2))


# ---- The likelihood of images, by importance sampling. ---------------------------------------------------------------


@torch.no_grad()
def sampled_evidence(joint: LogJoint, q: sl.Gibbs, samples: int) -> Tensor:
    """Estimate log p(x) as the log of the mean of p(x, z) / q(z|x) over samples z of q, [B]."""
    z = q.sample((samples,))
    row = torch.arange(z.shape[1], device=z.device).repeat(samples)
    weights = joint(z.flatten(0, 1), row).view(samples, -1) - q.log_prob(z)
    return weights.logsumexp(0) - math.log(samples)


@torch.no_grad()
def sparse_evidence(joint: LogJoint, q: sl.SparseDistribution, bits: int, samples: int) -> Tensor:
    """Estimate log p(x) = log(sum of p(x, z) over the support of q + the sum over all other z), [B].

    The first sum is exact, the second estimated by samples that are uniform over what is *not* in the support: a z
    that both would count makes the estimate too good.
    """
    inside = torch.full(q.probs.shape, -math.inf, dtype=torch.float64, device=q.probs.device)
    row, column = torch.nonzero(q.probs > 0, as_tuple=True)
    inside[row, column] = joint(q.structures[row, column], row)
    others = off_support(q, bits, samples)
    if others is None:
        return inside.logsumexp(-1)
    rows = torch.arange(others.shape[1], device=others.device).repeat(samples)
    mean = joint(others.flatten(0, 1), rows).view(samples, -1).logsumexp(0) - math.log(samples)
    # how many they stand for, log(2^D - K); -inf where the support is all there is
    count = bits * math.log(2) + torch.log1p(-q.support_size.double() * 2.0**-bits)
    return torch.logaddexp(inside.logsumexp(-1), mean + count)


def off_support(q: sl.SparseDistribution, bits: int, samples: int) -> Tensor | None:
    """Bit-vectors [S, B, D], uniform over those that have no probability; None where every row has them all.

    What falls into the support is drawn again. A row whose support is everything gets what came first, which then has
    no weight.
    """
    possible = q.support_size < 2.0**bits
    if not bool(possible.any()):
        return None
    z = torch.randint(2, (samples, *q.batch_shape, bits), device=q.probs.device).to(q.structures.dtype)
    while True:
        again = (q.log_prob(z) > -math.inf) & possible
        count = int(again.sum())
        if not count:
            return z
        z[again] = torch.randint(2, (count, bits), device=z.device).to(z.dtype)


# ---- Data and the run. -----------------------------------------------------------------------------------------------


def main(settings: BitSettings) -> dict[str, Any]:
    """Train and test one estimator. Returns the line of results."""
    settings = resolve(settings)
    assert settings.batch_size is not None
    assert settings.images is not None
    assert settings.validation is not None
    on_cpu(settings)
    images = load_images("fashion-mnist", settings.data_root, settings.cache)
    x = images.train.flatten(1)
    sizes = (settings.images, settings.validation)
    train, validation = split(len(x), sizes, settings.seed)
    test = images.test.flatten(1)[: settings.test_images]
    torch.manual_seed(mixed(settings.seed))
    model = BitVectorVAE(settings)
    loaders = Loaders(
        loader(TensorDataset(x[train]), Batches(len(train), settings.batch_size, settings.seed)),
        loader(TensorDataset(x[validation]), Batches(len(validation), 64)),
        loader(TensorDataset(test), Batches(len(test), 4)),
    )
    used = dict(zip(("images", "validation", "test_images"), (*sizes, len(test)), strict=True))
    return run(
        model,
        loaders,
        settings,
        experiment="bit_vector_vae",
        monitor="negative_elbo",
        mode="min",
        data=images.provenance | {"sizes": used},
        bits=settings.bits,
    )


if __name__ == "__main__":
    command_line(main, BitSettings, DESCRIPTION)
