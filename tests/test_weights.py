"""tools/weights.py: what it stores is what `load` reads, and its tables are those of the stored networks."""

import csv

import pytest
import torch

import weights
from quantcourse import models
from quantcourse.data import digits


def few(split, n=256):
    return tuple(t[:n] for t in digits(split))


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


FOLDER = models._FOLDER


def test_trained_and_stored_is_what_load_reads(tmp_path, monkeypatch):
    images, labels, _ = few("train")
    nets = [weights.train("plain", seed, weights.Recipe(1), images, labels, progress=False) for seed in (0, 1, 0)]
    assert not any(net.training for net in nets)
    scores = [net(images[:8]) for net in nets]
    assert torch.equal(scores[0], scores[2]) and not torch.equal(scores[0], scores[1])
    weights.store(nets[0], "plain", 0, tmp_path)
    mobile = weights.train("mobile", 0, weights.Recipe(1), images, labels, progress=False)
    weights.store(mobile, "mobile", 0, tmp_path)
    monkeypatch.setattr(models, "_FOLDER", tmp_path)
    torch.testing.assert_close(models.load("plain")(images[:8]), scores[0])  # its sum is still listed
    models.load("mobile")


def test_tables_are_those_of_the_stored_networks(tmp_path, monkeypatch):
    split = {name: few(name, 2000) for name in ("validation", "test")}
    monkeypatch.setattr(weights, "digits", lambda name: split[name])
    monkeypatch.setattr(models, "NAMES", ("mobile_dead",))
    monkeypatch.setattr(models, "SEEDS", 1)
    weights.table(tmp_path)
    (row,) = rows(tmp_path / "accuracy.csv")
    (stored,) = [r for r in rows(FOLDER / "accuracy.csv") if (r["network"], r["seed"]) == ("mobile_dead", "0")]
    net = models.load("mobile_dead")
    for name, (images, labels, _) in split.items():
        with torch.no_grad():
            share = (net(images).argmax(1) == labels).double().mean()
        assert float(row[name]) == pytest.approx(100 * float(share), abs=0.005)
    assert row["dead_channels"] == stored["dead_channels"]


def test_trials_are_validated_and_never_tested(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "digits", lambda name: asked.append(name) or few(name))
    monkeypatch.setattr(weights, "train", lambda *_: models.load("plain"))
    monkeypatch.setattr(weights, "TRIALS", weights.TRIALS[:1])
    weights.trials(tmp_path)
    assert set(asked) == {"train", "validation"}
    assert len(rows(tmp_path / "trials.csv")) == 1


def test_recipes_are_those_that_were_tried():
    tried = {
        (r["network"], r["optimizer"], float(r["learning_rate"]), float(r["weight_decay"]), int(r["epochs"]))
        for r in rows(FOLDER / "trials.csv")
    }
    listed = [(name, r.optimizer, r.learning_rate, r.weight_decay, r.epochs) for name, r in weights.TRIALS]
    assert len(set(listed)) == len(listed) and set(listed) == tried
    for name, r in weights.RECIPES.items():
        tried_as = "mobile" if name == "mobile_dead" else name
        assert (tried_as, r.optimizer, r.learning_rate, r.weight_decay, r.epochs) in tried
    assert weights.TRIAL_SEED not in range(models.SEEDS)


def test_dead_channels_come_from_the_recipe_of_the_page():
    assert weights.RECIPES["mobile_dead"] == weights.Recipe(6, 0.5, 2e-3, "sgd")
