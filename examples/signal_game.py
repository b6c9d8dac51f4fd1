"""A sender sees an image and sends one of 256 messages; from the message, a receiver finds the image among 16.

    python examples/signal_game.py --estimator sparsemax
    python examples/signal_game.py --estimator sfe+ --dataset mnist --seed 3
    python examples/signal_game.py --preset paper --features FOLDER

Table 2 of Correia et al. (2020). Nobody tells the two what the messages are to mean: both learn from the receiver's
loss alone, and the message is a discrete latent variable. How its gradient is had is all that ``--estimator`` changes.

The paper plays with ImageNet features (``--features``, see :func:`load_features`). Where those cannot be had, the
images are those of Fashion-MNIST or MNIST, as 64 whitened principal components that are fitted to the training images.
Training games are made of training images alone. Validation and test games are made once and for all, of images that
nobody trains on, and are the same for all methods and seeds. The 16 images of a game are drawn at random. The test
plays two other kinds of game besides: the target among 15 images of its own class (harder: a shirt among shirts), and
among 15 of other classes.

An answer counts as right where the most probable message makes the receiver give its highest score to the target: for
all methods alike, and without drawing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from batches import Batches, Loaders, loader
from experiment import Model, baseline_network, run
from games import Distractors, Played, Pools, TrainingGames, fixed_games, load_components, load_features
from options import Presets, Settings, command_line, resolve
from torch import Tensor, nn

import structlat as sl
import structlat.estimators

MESSAGES = 256
HIDDEN = 256
FILTERS = 512
METHODS = ("sfe", "sfe+", "nvil", "gumbel", "st-gumbel", "sum-and-sample", "softmax", "sparsemax")
RELAXED = ("gumbel", "st-gumbel")  # their messages are points between vertices


@dataclasses.dataclass(kw_only=True)
class GameSettings(Settings):
    """Options of the game, beside those of every experiment.

    Parameters
    ----------
    dataset
        whose images are played with
    features
        folder with the published ImageNet features, to play with those instead
    sender
        plain: one hidden layer; paper: the convolutional one, which takes far longer to train
    reward
        what is minimised: nll, the negative log-likelihood of the target under the receiver; choice, minus one where a
        choice drawn from the receiver is right
    divisor
        of the sender's scores: the larger, the longer the messages stay undecided; the paper's is 10
    steps
        training steps in an epoch
    temperature_rate
        at which the temperature of gumbel and st-gumbel falls, a step
    validation_games
        on which the best epoch is chosen
    test_games
        that are counted at the end
    """

    dataset: Literal["fashion-mnist", "mnist"] = "fashion-mnist"
    features: str | None = None
    sender: Literal["plain", "paper"] | None = None
    reward: Literal["nll", "choice"] | None = None
    divisor: float = 10.0
    steps: int | None = None
    temperature_rate: float | None = None
    validation_games: int = 2000
    test_games: int = 5000

    def presets(self) -> Presets:
        """The same for every game."""
        return PRESETS

    def config(self) -> dict[str, Any]:
        """What decides the numbers; of the features, only whether they are those of ImageNet."""
        return {**super().config(), "features": None if self.features is None else "imagenet"}


# entropy coefficients, temperature rates and rewards are the paper's in both presets (sum-and-sample, which is not in
# its table, takes those of dense); so are, in the paper's preset, the learning rates
_SHARED: dict[str, dict[str, Any]] = {
    "*": {"batch_size": 64, "entropy": 0.1, "temperature_rate": 1e-5, "reward": "nll"},
    "sfe": {"entropy": 0.05, "reward": "choice"},
    "sfe+": {"entropy": 0.05, "reward": "choice"},
    "gumbel": {"entropy": 0.01},
    "st-gumbel": {"entropy": 0.01},
}
_QUICK: dict[str, dict[str, Any]] = {"*": {"sender": "plain", "epochs": 20, "steps": 50, "learning_rate": 5e-3}}
_PAPER: dict[str, dict[str, Any]] = {
    "*": {"sender": "paper", "epochs": 50, "steps": 1000, "learning_rate": 1e-3},
    "sparsemax": {"learning_rate": 5e-3},
}
PRESETS: Presets = {
    preset: {name: {**_SHARED.get(name, {}), **table.get(name, {})} for name in {*_SHARED, *table}}
    for preset, table in (("quick", _QUICK), ("paper", _PAPER))
}


# ---- Images and games. -----------------------------------------------------------------------------------------------


def load_pools(settings: GameSettings) -> Pools:
    """Features of the images that the settings ask for."""
    if settings.features is not None:
        return load_features(Path(settings.features))
    return load_components(settings.dataset, settings.data_root, settings.cache)


def make_loaders(pools: Pools, settings: GameSettings) -> tuple[Loaders, list[str]]:
    """Loaders, and what the test's numbers are called, one a kind of game."""
    kinds: dict[str, Distractors] = {"success": "any", "success_same_class": "same", "success_other_classes": "other"}
    if settings.features is not None:
        kinds = {"success": "concepts"}
    first = kinds["success"]
    assert settings.steps is not None
    assert settings.batch_size is not None
    training = TrainingGames(pools.train.labels, first, settings.steps, settings.batch_size, settings.seed)
    validation = fixed_games(pools.validation, settings.validation_games, [first], seed=1)
    test = fixed_games(pools.test, settings.test_games, list(kinds.values()), seed=2)
    loaders = Loaders(
        loader(Played(pools.train.features), training),
        loader(Played(pools.validation.features, validation), Batches(len(validation), 500)),
        loader(Played(pools.test.features, test), Batches(len(test), 500)),
    )
    return loaders, list(kinds)


# ---- The players. ----------------------------------------------------------------------------------------------------


def targets(features: Tensor, place: Tensor) -> Tensor:
    """Of games [B, 16, F] the images at ``place`` [B]: [B, F]."""
    return features[torch.arange(len(place), device=place.device), place]


class PlainSender(nn.Sequential):
    """Features [B, F] to scores of messages [B, 256], through one hidden layer."""

    def __init__(self, size: int) -> None:
        super().__init__(nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, MESSAGES))


class PaperSender(nn.Module):
    """The paper's: every filter scales and squashes the embedded image, and another layer mixes the filters."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(size, HIDDEN, bias=False)
        # convolutions of width 1, written as the linear maps that they are: on a CPU twice as fast
        self.filters = nn.Linear(1, FILTERS, bias=False)
        self.mix = nn.Linear(FILTERS, 1, bias=False)
        self.messages = nn.Linear(HIDDEN, MESSAGES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [B, 256] of features [B, F]."""
        # all filters of 16 images stay in a processor's cache: on a CPU twice as fast again
        parts = self.embedding(x).unsqueeze(-1).split(16)
        mixed = torch.cat([self.mix(self.filters(part).sigmoid()) for part in parts]).squeeze(-1)
        scores: Tensor = self.messages(mixed.sigmoid())
        return scores


class Receiver(nn.Module):
    """Scores images by the product of their embedding with that of the message."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.images = nn.Linear(size, HIDDEN, bias=False)
        self.messages = nn.Parameter(torch.empty(MESSAGES, HIDDEN).uniform_(-(HIDDEN**-0.5), HIDDEN**-0.5))

    def forward(self, message: Tensor, i: Tensor, images: Tensor) -> Tensor:
        """Log-probabilities [N, 16] of the images of game i.

        Parameters
        ----------
        message : Tensor [N] of labels, or [N, 256] of vertices
        i : Tensor [N]
            The game that each message belongs to.
        images : Tensor [B, 16, HIDDEN]
            Embedded images of each game.
        """
        embedded = message @ self.messages if message.is_floating_point() else self.messages[message]
        # the messages of a game side by side, [B, K, HIDDEN]: its images are not copied once a message
        order = i.argsort(stable=True)
        game = i[order]
        many = i.bincount(minlength=len(images))
        place = torch.arange(len(i), device=i.device) - (many.cumsum(0) - many)[game]
        table = embedded.new_zeros(len(images), int(many.max()), HIDDEN).index_put((game, place), embedded[order])
        scores = (table @ images.mT)[game, place]
        return scores.new_zeros(scores.shape).index_put((order,), scores).log_softmax(-1)


class Players(Model):
    """Sender, receiver, and the estimator between them."""

    def __init__(self, settings: GameSettings, size: int, tests: Sequence[str] = ("success",)) -> None:
        super().__init__(settings)
        assert settings.entropy is not None
        self.entropy, self.divisor, self.reward = settings.entropy, settings.divisor, settings.reward
        self.tests = list(tests)
        self.sender = {"plain": PlainSender, "paper": PaperSender}[settings.sender or "plain"](size)
        self.receiver = Receiver(size)
        options: dict[str, dict[str, Any]] = {"nvil": {"network": baseline_network(size)}}
        options |= {name: {"vertices": True, "rate": settings.temperature_rate} for name in RELAXED}
        make = structlat.estimators.get(settings.estimator)
        self.estimator = make(sl.Categorical(MESSAGES), **options.get(settings.estimator, {}))

    def play(self, features: Tensor, place: Tensor) -> structlat.estimators.Estimate:
        """The estimate of E[loss], of games [B, 16, F] with their targets' places [B]."""
        x = targets(features, place)
        scores = self.sender(x) / self.divisor
        images = self.receiver.images(features)

        def loss(z: Tensor, i: Tensor) -> Tensor:
            log_p: Tensor = self.receiver(z, i, images)
            right = log_p.gather(1, place[i].unsqueeze(1)).squeeze(1)
            if self.reward == "nll":
                return -right
            # the number is what a drawn choice earns; the receiver's gradient is that of its expectation
            earned = torch.multinomial(log_p.detach().exp(), 1).squeeze(1) == place[i]
            p = right.exp()
            return (p.detach() - earned.to(p.dtype)) - p

        out: structlat.estimators.Estimate = self.estimator(loss, scores, context=x)
        return out

    def succeed(self, features: Tensor, place: Tensor) -> Tensor:
        """Whether the most probable message makes the receiver choose the target, [B]."""
        message = self.sender(targets(features, place)).argmax(-1)
        game = torch.arange(len(place), device=place.device)
        log_p: Tensor = self.receiver(message, game, self.receiver.images(features))
        return log_p.argmax(-1) == place

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """E[loss] - c H(q)."""
        features, place = (x.squeeze(1) for x in batch)
        out = self.play(features, place)
        self.log_training(out.value.mean(), out.calls.double().mean(), entropy=out.entropy.mean())
        return out.surrogate.mean() - self.entropy * out.entropy.mean()

    def evaluate(self, stage: Literal["validation", "test"], batch: Sequence[Tensor], names: Sequence[str]) -> None:
        """Success in each kind of game; calls of the receiver by the estimator; entropy of q."""
        features, places = batch
        out = self.play(features[:, 0], places[:, 0])
        metrics = {"calls": out.calls.double().mean(), "entropy": out.entropy.mean(), "loss": out.value.mean()}
        for kind, name in enumerate(names):
            metrics[name] = self.succeed(features[:, kind], places[:, kind]).double().mean()
        self.log_evaluation(stage, metrics, len(places))

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Games of held-out images."""
        self.evaluate("validation", batch, ["success"])

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Games of test images, of every kind."""
        self.evaluate("test", batch, self.tests)


def main(settings: GameSettings) -> dict[str, Any]:
    """Train and test one method from one seed. Returns the line that was written."""
    settings = resolve(settings)
    pools = load_pools(settings)
    L.seed_everything(settings.seed, verbose=False)
    loaders, tests = make_loaders(pools, settings)
    model = Players(settings, pools.train.features.shape[1], tests)
    return run(model, loaders, settings, experiment="signal_game", monitor="success", mode="max", data=pools.data)


if __name__ == "__main__":
    command_line(main, GameSettings, "A game of sender and receiver, whose messages are learned in one of many ways.")
