import dataclasses
import importlib
import json
import pickle
from importlib.metadata import version

import numpy as np
import pytest
import torch
from filelock import FileLock

from tests.examples import tiny_data
from tests.examples.scripts import interrupt, run, run_on_two, start

METHODS = ["sfe", "sfe+", "nvil", "gumbel", "st-gumbel", "sum-and-sample", "softmax", "sparsemax"]
SIZES = {"epochs": 2, "steps": 3, "batch_size": 4, "validation_games": 20, "test_games": 20}


@pytest.fixture(scope="module")
def game():
    return importlib.import_module("signal_game")


@pytest.fixture
def drawing(game):
    return importlib.import_module("games")


@pytest.fixture
def options_module(game):
    return importlib.import_module("options")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    tiny_data.write(root / "FashionMNIST" / "raw", train=1800, test=800)
    tiny_data.write(root / "MNIST" / "raw", train=1800, test=800)
    return root


@pytest.fixture
def settings(game, data_root, tmp_path):
    """Settings of a run of a few steps."""

    def make(**options):
        places = {"data_root": str(data_root), "out": str(tmp_path), "progress": False}
        return game.GameSettings(**(SIZES | places | options))

    return make


def options(places):
    return [f"--{name}={value}" for name, value in (SIZES | places).items()]


def results(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def repeatable(line):
    """All that the same seed repeats."""
    history = {name: column for name, column in line["history"].items() if name != "seconds"}
    return {name: x for name, x in line.items() if name not in ("seconds", "command")} | {"history": history}


# ---- The games. ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["any", "same", "other", "concepts"])
def test_games_have_sixteen_different_images_of_the_kind_asked_for(drawing, generator, kind):
    classes = {"same": 8, "concepts": 150}.get(kind, 20)
    labels = torch.randint(classes, (600,), generator=generator)
    games = drawing.draw_games(labels, 2000, kind, generator)
    images, place = games[:, :-1], games[:, -1]
    assert images.shape == (2000, 16)
    assert int(images.min()) >= 0
    assert int(images.max()) < 600
    assert ((images.sort(1).values.diff() > 0).all(1)).all()
    # the target may be in any place, and be any image
    assert place.bincount(minlength=16).min() > 80
    target = images.gather(1, place[:, None])
    assert len(target.unique()) > 550
    own = (labels[images] == labels[target]).sum(1)
    if kind == "same":
        assert (own == 16).all()
    elif kind == "any":
        # each of the others has the target's class about as often as chance has it
        assert float((own - 1).double().mean()) == pytest.approx(15 / 20, abs=0.1)
    else:
        assert (own == 1).all()
    different = torch.tensor([len(row.unique()) for row in labels[images]])
    assert (different == 16).all() == (kind == "concepts")


def test_too_few_images_for_a_kind_of_game(drawing, generator):
    labels = torch.arange(150) % 10
    for kind in ("same", "concepts"):
        with pytest.raises(drawing.DataError, match=f"150 images of 10 classes are too few for games with '{kind}'"):
            drawing.draw_games(labels, 1, kind, generator)
    assert drawing.draw_games(labels, 1, "other", generator).shape == (1, 17)


def test_pools_share_no_image_and_components_are_white_on_the_training_images(game, settings):
    pools = game.load_pools(settings())
    assert [len(pool.labels) for pool in pools[:3]] == [1650, 150, 800]
    x = pools.train.features
    assert x.shape == (1650, 64)
    torch.testing.assert_close(x.mean(0), torch.zeros(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.T @ x / 1649, torch.eye(64), atol=1e-3, rtol=0)
    rows = [tuple(row.tolist()) for pool in pools[:3] for row in pool.features]
    assert len(set(rows)) == 2600
    assert (
        "1,650 of the training images to train with, 150 to validate with; 800 test images" in pools.data["game_images"]
    )


def test_validation_and_test_games_are_the_same_for_all_seeds_and_training_games_are_not(game, settings):
    pools = game.load_pools(settings())
    made = [game.make_loaders(pools, game.resolve(settings(seed=seed)))[0] for seed in (0, 1)]
    for x, y in ((loaders.validation, loaders.test) for loaders in made):
        assert len(x.dataset.games) == len(y.dataset.games) == 20
    for part in ("validation", "test"):
        one, other = (getattr(loaders, part).dataset.games for loaders in made)
        assert torch.equal(one, other)
    one, other = ([place for _, place in loaders.train] for loaders in made)
    assert not all(torch.equal(x, y) for x, y in zip(one, other, strict=True))
    made[0].train.sampler.set_epoch(1)
    again = [place for _, place in made[0].train]
    assert not all(torch.equal(x, y) for x, y in zip(one, again, strict=True))
    features, place = next(iter(made[0].test))
    assert features.shape == (20, 3, 16, 64)
    assert place.shape == (20, 3)


# ---- The players. ----------------------------------------------------------------------------------------------------


def test_the_receiver_reads_each_message_beside_the_images_of_its_own_game(game, generator):
    receiver = game.Receiver(8)
    images = torch.randn(5, 16, game.HIDDEN, generator=generator)
    message = torch.randint(game.MESSAGES, (23,), generator=generator)
    i = torch.randint(4, (23,), generator=generator)  # in no order, and game 4 has no message
    expected = torch.stack([images[row] @ receiver.messages[z] for row, z in zip(i, message, strict=True)])
    for given in (message, torch.nn.functional.one_hot(message, game.MESSAGES).float()):
        torch.testing.assert_close(receiver(given, i, images), expected.log_softmax(-1))


def test_the_papers_sender(game, generator):
    sender = game.PaperSender(8)
    x = torch.randn(3, 8, generator=generator)
    with torch.no_grad():
        filtered = (sender.embedding(x)[:, None] * sender.filters.weight.reshape(512, 1)).sigmoid()
        mixed = (filtered * sender.mix.weight.reshape(512, 1)).sum(1).sigmoid()
        torch.testing.assert_close(sender(x), sender.messages(mixed))
    assert sender(x).shape == (3, 256)


def test_a_reward_for_a_drawn_choice_has_the_gradient_of_its_expectation(game, settings, generator):
    """Under q with one message: the number is -1 or 0, the receiver's gradient that of -p(target)."""
    players = game.Players(game.resolve(settings(estimator="sparsemax", reward="choice")), 8)
    features, place = torch.randn(6, 16, 8, generator=generator), torch.arange(6)
    with torch.no_grad():
        players.sender[2].bias[7] = 1e4
    players.play(features, place).surrogate.sum().backward()
    assert set(players.play(features, place).value.tolist()) <= {0.0, -1.0}
    came = players.receiver.messages.grad.clone()
    images = players.receiver.images(features).detach()
    message = torch.full((6,), 7)
    p = players.receiver(message, torch.arange(6), images)[torch.arange(6), place].exp()
    (expected,) = torch.autograd.grad(-p.sum(), players.receiver.messages)
    torch.testing.assert_close(came, expected)


def test_the_papers_settings(game):
    rows = {
        "sfe": (1e-3, 0.05, "choice"),
        "sfe+": (1e-3, 0.05, "choice"),
        "nvil": (1e-3, 0.1, "nll"),
        "gumbel": (1e-3, 0.01, "nll"),
        "st-gumbel": (1e-3, 0.01, "nll"),
        "softmax": (1e-3, 0.1, "nll"),
        "sparsemax": (5e-3, 0.1, "nll"),
    }
    for name, row in rows.items():
        s = game.resolve(game.GameSettings(estimator=name, preset="paper"))
        assert (s.learning_rate, s.entropy, s.reward) == row
        assert (s.sender, s.epochs * s.steps, s.batch_size, s.divisor) == ("paper", 50_000, 64, 10)
        assert s.temperature_rate == 1e-5


def test_it_learns(game, settings):
    """Shapes and noise: the class can be told, and little else."""
    line = game.main(settings(epochs=2, steps=60, batch_size=32, learning_rate=5e-3, test_games=200))
    assert line["metrics"]["success"] > 3 / 16
    assert line["metrics"]["success_other_classes"] > 2 * line["metrics"]["success_same_class"]
    assert line["calls_last_epoch"] < 128


# ---- Runs. -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_says_what_it_did(game, settings, tmp_path, method):
    sender = "paper" if method == "sparsemax" else "plain"
    line = game.main(settings(estimator=method, sender=sender, dataset="mnist"))
    assert results(tmp_path) == [json.loads(json.dumps(line))]
    assert line["experiment"] == "signal_game"
    assert line["method"] == line["config"]["estimator"] == method
    assert line["preset"] == "quick"
    for name in ("success", "success_same_class", "success_other_classes"):
        assert 0 <= line["metrics"][name] <= 1
    expected = {"sfe+": 2, "sum-and-sample": 2, "softmax": 256}.get(method, 1)
    assert line["calls"] == expected or (method == "sparsemax" and 1 < line["calls"] < 256)
    assert line["metrics"]["calls"] == expected or method == "sparsemax"
    assert line["seconds"] > 0
    assert line["data"]["dataset"] == "mnist"
    assert line["versions"]["torch"] == version("torch")
    assert line["config"]["learning_rate"] == 5e-3
    history = line["history"]
    assert history["epoch"] == [1, 2]
    assert history["step"] == [3, 6]
    assert 0 < history["seconds"][0] < history["seconds"][1] == pytest.approx(line["seconds"], rel=1e-4)
    assert line["best_epoch"] == 1 + int(np.argmax(history["validation/success"]))
    assert str(tmp_path) not in json.dumps(line)


@pytest.mark.parametrize("method", ["sfe", "gumbel"])
def test_a_run_that_goes_on_gives_the_numbers_of_one_that_was_never_stopped(game, settings, method):
    """SFE has a running average, Gumbel a temperature; both draw."""
    rates = {"temperature_rate": 0.1}
    whole = game.main(settings(estimator=method, epochs=4, **rates))
    game.main(settings(estimator=method, epochs=2, **rates))
    resumed = game.main(settings(estimator=method, epochs=4, resume=True, **rates))
    assert repeatable(resumed) == repeatable(whole)
    # and once it is done, there is nothing left to train
    assert game.main(settings(estimator=method, epochs=4, resume=True, **rates)) == resumed


def test_the_command_line(game, options_module, tmp_path, data_root):
    """Either spelling of an option; the command in the line gives the line again."""
    output = run("signal_game.py", *options({"estimator": "nvil", "out": tmp_path}), "--data-root", data_root)
    assert '"success":' in output
    assert "train/loss" in output
    (line,) = results(tmp_path)
    assert line["method"] == "nvil"
    script, *words = line["command"].split()[1:]
    assert script == "examples/signal_game.py"
    words += ["--out", str(tmp_path), "--data_root", str(data_root), "--progress", "false"]
    again = game.main(options_module.parse(game.GameSettings, "", words))
    assert repeatable(again) == repeatable(line)
    assert list((tmp_path / "signal_game").rglob("events.out.tfevents*"))


def test_control_c_and_on_again(game, settings, tmp_path, data_root):
    process = start("signal_game.py", *options({"out": tmp_path, "data_root": data_root, "epochs": 1000}))
    output = interrupt(process, "Epoch 3")  # the first epochs have a checkpoint
    assert "--resume true" in output
    assert not (tmp_path / "results.jsonl").exists()
    (last,) = tmp_path.rglob("last.ckpt")
    done = 1 + torch.load(last, weights_only=True)["epoch"]
    line = game.main(settings(epochs=done + 1, resume=True))
    assert line["history"]["epoch"] == list(range(1, done + 2))


def test_help_explains_every_option(game, options_module, capsys):
    with pytest.raises(SystemExit, match="0"):
        options_module.parse(game.GameSettings, "What it is.", ["--help"])
    output = capsys.readouterr().out
    assert "What it is." in output
    for field in dataclasses.fields(game.GameSettings):
        assert (f"  --{field.name} " in output) == field.init
        if field.init:
            assert "default" in output.split(f"  --{field.name} ")[1].split("  --")[0], field.name


# ---- Two processes. --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_processes_have_the_gradients_of_one_with_the_joined_batch(game, settings, tmp_path, data_root, launcher):
    """After one step Adam's first moment is a tenth of the gradient."""
    sizes = {"epochs": 1, "steps": 1, "batch_size": 8, "progress": "false"}
    one = game.main(settings(**sizes | {"progress": False}))
    places = {"out": tmp_path / "two", "data_root": data_root}
    if launcher == "torchrun":
        run_on_two("signal_game.py", *options(sizes | places))
    else:
        run("signal_game.py", *options(sizes | places), "--devices", 2, "--strategy", "ddp")
    (two,) = results(tmp_path / "two")
    assert two["machine"]["devices"] == 2
    moments = {}
    for number, folder in {1: tmp_path / "signal_game", 2: tmp_path / "two"}.items():
        (file,) = folder.rglob("last.ckpt")
        checkpoint = torch.load(file, weights_only=True)
        state = checkpoint["optimizer_states"][0]["state"]
        moments[number] = [state[at]["exp_avg"] for at in sorted(state)]
    assert len(moments[1]) == 6  # of sender and receiver
    assert all(float(x.abs().max()) > 1e-5 for x in moments[1])
    torch.testing.assert_close(moments[2], moments[1], atol=1e-8, rtol=1e-4)
    for name in ("success", "success_same_class", "calls", "entropy"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], abs=0.06)
    assert two["calls"] == pytest.approx(one["calls"])


def test_going_on_with_other_data_is_another_run(game, settings, tmp_path):
    first = game.main(settings())
    other = tmp_path / "other"
    tiny_data.write(other / "FashionMNIST" / "raw", train=1700, test=800)
    second = game.main(settings(data_root=str(other), resume=True))
    assert first["data"]["md5"] != second["data"]["md5"]
    assert first["history"]["train/loss"] != second["history"]["train/loss"]


def test_a_run_cannot_go_back(game, settings):
    game.main(settings(epochs=2))
    with pytest.raises(ValueError, match=r"epochs: got 1; expected 2 at least, as .*last\.ckpt has"):
        game.main(settings(epochs=1, resume=True))
    assert len(game.main(settings(epochs=3, resume=True))["history"]["epoch"]) == 3


def test_going_on_starts_from_the_last_epoch_and_not_from_the_best(game, settings, tmp_path):
    still = {"learning_rate": 0.0}  # no epoch is better than the first
    first = game.main(settings(epochs=3, **still))
    assert first["best_epoch"] == 1
    (last,) = tmp_path.rglob("last.ckpt")
    rows = torch.load(last, weights_only=True)["callbacks"]["History"]["rows"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    second = game.main(settings(epochs=4, resume=True, **still))
    assert second["best_epoch"] == 1
    assert second["history"]["seconds"][:3] == first["history"]["seconds"]
    assert second["metrics"] == first["metrics"]


def test_two_runs_do_not_share_a_folder(game, settings, tmp_path):
    game.main(settings())
    (folder,) = (x for x in (tmp_path / "signal_game").iterdir() if x.is_dir())
    with FileLock(folder.with_suffix(".lock")), pytest.raises(RuntimeError, match="another run of the same settings"):
        game.main(settings())


def test_batches_that_cannot_be(game, monkeypatch):
    batches = importlib.import_module("batches")
    with pytest.raises(ValueError, match="batch_size: got 8; expected at most 5"):
        batches.Batches(5, 8, seed=0)
    for world in (1, 3, 4, 5):
        shares = []
        for rank in range(world):
            monkeypatch.setattr(batches, "process", lambda rank=rank, world=world: (rank, world))
            own = batches.Batches(5, 2)
            shares.append(list(own))
            assert len(own) == len(shares[0]) == max(1, min(3, 5 // world))
            assert all(len(x) for x in shares[-1])
        assert sorted(i for share in shares for x in share for i in x.tolist()) == list(range(5))
    monkeypatch.setattr(batches, "process", lambda: (0, 6))
    with pytest.raises(ValueError, match="devices: got 6 processes for 5 examples"):
        list(batches.Batches(5, 2))


# ---- The paper's features. -------------------------------------------------------------------------------------------


@pytest.fixture
def features(tmp_path):
    """Files as they were published: one array, whatever its key, and a pickled list of concepts."""
    import h5py

    folder = tmp_path / "features"
    folder.mkdir()
    concepts = [f"concept{i % 40}" for i in range(400)]
    x = np.random.default_rng(0).normal(size=(40, 12))[np.arange(400) % 40]
    x += 0.01 * np.random.default_rng(1).normal(size=x.shape)
    with h5py.File(folder / "ours_images_single_sm0.h5", "w") as archive:
        archive["dataset_1"] = x.astype(np.float32)
    (folder / "ours_images_single_sm0.objects").write_bytes(pickle.dumps(concepts))
    return folder


def test_the_published_features(game, settings, features):
    pools = game.load_pools(settings(features=str(features)))
    assert [len(pool.labels) for pool in pools[:3]] == [320, 40, 40]
    for pool in pools[:3]:
        torch.testing.assert_close(pool.features.norm(dim=1), torch.ones(len(pool.labels)))
        # all images of a concept are nearly the same here
        same = pool.features[pool.labels == pool.labels[0]]
        assert (same @ same[0]).min() > 0.99
    line = game.main(settings(features=str(features)))
    assert line["data"]["dataset"] == line["config"]["features"] == "imagenet"
    assert "success_same_class" not in line["metrics"]
    assert str(features) not in json.dumps(line)


@pytest.mark.parametrize("dtype", [object, str])
def test_the_published_layout(game, drawing, settings, features, dtype):
    """Training and test images in folders of their own, labels as an array."""
    root = features.parent / "published"
    for part in ("train", "test"):
        (root / part).mkdir(parents=True)
        for file in features.iterdir():
            (root / part / file.name).write_bytes(file.read_bytes())
        labels = np.array([f"concept{i % 40}" for i in range(400)], dtype=dtype)
        (root / part / "ours_images_single_sm0.objects").write_bytes(pickle.dumps(labels, protocol=2))
    pools = drawing.load_features(root)
    assert [len(pool.labels) for pool in pools[:3]] == [360, 40, 400]
    assert torch.equal(pools.test.labels[:80], torch.tensor(np.unique(labels, return_inverse=True)[1][:80]))
    assert sorted(pools.data["md5"]) == [
        f"{part}/ours_images_single_sm0.{kind}" for part in ("test", "train") for kind in ("h5", "objects")
    ]
    line = game.main(settings(features=str(root)))
    assert line["data"]["md5"] == pools.data["md5"]


def test_features_that_are_not_what_they_should_be(drawing, features):
    labels = features / "ours_images_single_sm0.objects"
    labels.write_bytes(pickle.dumps(["one"]))
    with pytest.raises(drawing.DataError, match="400 rows of features and 1 labels"):
        drawing.load_features(features)
    labels.write_bytes(pickle.dumps([1]))
    with pytest.raises(drawing.DataError, match="expected a pickled list or array of strings"):
        drawing.load_features(features)
    labels.write_bytes(pickle.dumps(print))  # an object is not even made
    with pytest.raises(drawing.DataError, match=r"got one that holds builtins\.print"):
        drawing.load_features(features)
    labels.unlink()
    with pytest.raises(drawing.DataError, match="not there"):
        drawing.load_features(features)
